"""Descriptions of experiments and studies: their sections, and how they are loaded."""
