"""Tensors in files: safetensors, rows that are read by range, trajectories of experts, and their cache."""
