"""Whether everything works on a GPU, and how fast: `python -m benchmarks.gpu`. See benchmarks/results/gpu.md."""
