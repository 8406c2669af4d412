"""Stages that prepare data, once for all others: shards, caption embeddings, image features, image weights."""
