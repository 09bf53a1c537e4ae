"""Files that are whole and run no code: how checkpoints are read and written."""
