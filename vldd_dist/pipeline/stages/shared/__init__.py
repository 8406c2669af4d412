"""What several stages do alike: reading their inputs, making models, phases, and the sets that are evaluated."""
