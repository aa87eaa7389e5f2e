"""Look a data set over before training: ``python -m datasets.inspect``."""
