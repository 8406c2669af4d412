"""Renderers of `reporting.table.Table`, one file for each format."""
