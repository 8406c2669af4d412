"""Real pairs for training: batches of an epoch, the cache of decoded images, pairs by index, and means of groups of pairs."""
