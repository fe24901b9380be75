"""Pictures for people: overlays, lettering, colours."""
