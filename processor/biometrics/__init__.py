"""Biometric performance of one evaluation: which sections TEST selects, and what they leave."""
