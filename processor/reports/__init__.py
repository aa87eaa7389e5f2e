"""What a run writes for readers: tables, curves, pictures, pages."""
