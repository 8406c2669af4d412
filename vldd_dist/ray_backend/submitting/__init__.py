"""Jobs sent to a running cluster."""
