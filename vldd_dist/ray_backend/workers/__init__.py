"""Attempts at units, and what runs in the processes of workers."""
