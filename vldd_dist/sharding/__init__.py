"""Several ranks working on one model: their collectives, which elements each rank holds, and the engines."""
