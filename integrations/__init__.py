"""Adapters for labelling tools. Not part of the package: run from the repository, or copied."""
