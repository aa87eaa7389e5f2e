"""What a batch holds of an image besides its pixels and numbers."""
