"""Image encoders by ``MODEL.NAME``."""
