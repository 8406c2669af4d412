"""What objectives take of the real pairs: features, a model trained on them, teachers, whitening, discrepancies."""
