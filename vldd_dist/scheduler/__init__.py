"""Decides, without Ray, which units of a graph start and which are retried."""
