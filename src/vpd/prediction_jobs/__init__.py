"""Folders of pictures, shared out, stopped and gone on with."""
