"""Copies published sets between folders, object storage, web servers and the Hugging Face hub."""
