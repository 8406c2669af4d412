"""Checks of correctness and measurements of speed on a GPU: `python -m benchmarks.gpu`. See benchmarks/results/gpu.md."""
