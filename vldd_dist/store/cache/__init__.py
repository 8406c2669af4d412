"""The cache of a machine: verified copies of stored objects in a private folder, for all processes of this user."""
