"""Hands that the project draws."""
