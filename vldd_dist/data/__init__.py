"""Pictures and captions: sources, canonical shards, streaming, caption embeddings, the built-in scenes."""
