"""Image towers: backbones, and frozen ones as they compute fastest."""
