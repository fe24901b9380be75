"""A small procedural world of rendered scenes with exact labels."""
