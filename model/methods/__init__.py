"""One class for each method, found by ``MODEL.METHOD``."""
