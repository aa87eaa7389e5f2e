"""One run: its folder, its position, the states it resumes from."""
