"""Frozen text encoders: from captions to embeddings."""
