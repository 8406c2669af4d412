"""Descriptions and studies from files, presets and `--set`."""
