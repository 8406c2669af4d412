"""Decides which units start next: ready units that fit the machines."""
