"""Training the experts, whose trajectories distillation matches."""
