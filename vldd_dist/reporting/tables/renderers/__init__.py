"""Renderers of `reporting.tables.table.Table`, one file for each format."""
