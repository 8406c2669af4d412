"""Bi-trajectory matching: the synthetic pairs, the student's unroll and the outer loop."""
