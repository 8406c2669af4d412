"""Evaluates pairs by the recall of students that are trained on them."""
