"""Several models or training runs side by side."""
