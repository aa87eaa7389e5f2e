"""Reading image files: which are mirrored, turned or too dark, and the processes that read them."""
