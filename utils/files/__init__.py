"""Files that a run writes and reads: checkpoints, text, paths as they are shown."""
