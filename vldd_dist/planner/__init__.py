"""Plans: what a run would do and need, without running it."""
