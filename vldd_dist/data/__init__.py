"""Images and captions: sources, canonical shards, streaming, caption embeddings, and the built-in scenes."""
