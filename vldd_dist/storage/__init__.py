"""The store and what lies in it: the only state of the system."""
