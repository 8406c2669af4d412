"""Dual encoders: towers, heads, LoRA, losses and the view of what moves."""
