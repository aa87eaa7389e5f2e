"""Biometric performance testing: error rates, open-set identification, templates, fusion, likelihood ratios."""
