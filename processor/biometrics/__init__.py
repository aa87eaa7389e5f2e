"""Biometric performance of one evaluation: which sections TEST asks for, and what they leave."""
