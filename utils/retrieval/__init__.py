"""Distances, ranks, nearest neighbours, verification."""
