"""Turns a description into the graph of its work units."""
