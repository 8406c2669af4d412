"""Reading a prepared data set from the store: shards, captions, embeddings and features, by row, in batches or as a stream."""
