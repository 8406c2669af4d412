"""Distilled sets: reading, publishing, copying them, and training on them."""
