"""What becomes of units that fail, hang, or are much slower than their peers."""
