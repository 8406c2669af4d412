"""Units in the store: objects, manifests, checkpoints, garbage collection."""
