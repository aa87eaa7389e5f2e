"""The data set of drawn hands."""
