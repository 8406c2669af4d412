"""Several ranks at one model: what they say to each other, who holds which elements, and the DeepSpeed engine."""
