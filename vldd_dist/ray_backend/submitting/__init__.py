"""Submitting jobs to a running cluster."""
