"""Weight files of others and ours: found, checked, read, renamed."""
