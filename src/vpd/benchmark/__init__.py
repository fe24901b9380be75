"""`vpd bench`: the ways from an image to features, side by side."""
