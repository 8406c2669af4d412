"""Stages that prepare data for all other stages: shards, caption embeddings, image features, image weights."""
