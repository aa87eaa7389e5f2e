"""Check a data set before training: ``python -m datasets.inspect``."""
