"""Image towers: backbones, and fast frozen towers."""
