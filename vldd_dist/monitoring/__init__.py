"""What a run shows while it goes on, and the reports that it writes."""
