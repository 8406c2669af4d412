"""Recall of a dual encoder on a split, and further metrics."""
