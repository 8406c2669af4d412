"""The stages, and the graphs of work units that a description needs."""
