"""A run as it goes on: its state, and the views of it."""
