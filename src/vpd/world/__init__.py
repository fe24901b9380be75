"""A small procedural world of rendered scenes with exact labels, and models small enough to learn it on a CPU."""
