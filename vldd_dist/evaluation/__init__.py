"""Recall, and students trained on pairs."""
