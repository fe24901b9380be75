"""How the shipped weights and the claims of the documentation were made. Not part of the package."""
