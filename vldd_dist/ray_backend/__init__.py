"""Runs units on Ray. Only these files import Ray."""
