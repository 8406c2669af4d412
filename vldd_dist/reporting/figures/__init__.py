"""Figures of results as inline SVG."""
