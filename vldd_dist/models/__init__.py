"""Dual encoders: towers, heads, LoRA, losses and the view of their trainable parameters."""
