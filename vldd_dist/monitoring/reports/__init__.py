"""Reports of the results in a store."""
