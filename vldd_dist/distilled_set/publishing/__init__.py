"""Writes the files of a published set: pairs, card, Croissant metadata, pictures."""
