"""Files: written whole, decoded with limits, found."""
