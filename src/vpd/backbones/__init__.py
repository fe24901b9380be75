"""Diffusion models as feature extractors."""
