"""Biometric performance of one evaluation: the sections that TEST selects, and their results."""
