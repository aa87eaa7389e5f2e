"""A test: features, rankings, local and text matching, biometric performance."""
