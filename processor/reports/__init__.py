"""Reports of a run: tables, curves, pictures, pages."""
