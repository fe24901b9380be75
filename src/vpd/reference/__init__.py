"""Published checkpoints and the names of their weights."""
