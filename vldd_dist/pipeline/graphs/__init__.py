"""From a description to the graph of its work units."""
