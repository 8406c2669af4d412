"""Reports of what a store holds."""
