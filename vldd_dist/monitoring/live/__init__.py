"""Monitoring of a run while it goes on: its state, and the views that show or store it."""
