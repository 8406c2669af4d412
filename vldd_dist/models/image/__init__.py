"""Image towers: backbones, and fast frozen backbones."""
