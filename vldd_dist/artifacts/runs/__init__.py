"""Records of runs in the store: their status, and the units that they need."""
