"""Image towers: backbones, and fast copies of frozen ones."""
