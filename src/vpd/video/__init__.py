"""Clips and streams: frames of videos, animations, pictures and cameras in, videos out."""
