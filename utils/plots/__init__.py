"""Plots, picture sheets and pages."""
