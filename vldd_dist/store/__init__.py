"""A store at any fsspec URL: atomic writes, conditional creation, retries, the node's cache."""
