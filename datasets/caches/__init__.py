"""Decoded images and points of images, kept in memory or on the disk."""
