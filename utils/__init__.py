"""Ground floor: helpers that import nothing else of this project."""
