"""Distillation: the synthetic pairs, the objectives, the student's unroll and the outer loop."""
