"""Imports everything that the parts need, once: the processes of parts and ranks are forked from a process that has imported
this module. Nothing here uses a device."""

from benchmarks.gpu import (  # noqa: F401
    device,
    evaluation,
    experts,
    gradients,
    memory,
    out_of_memory,
    outer_steps,
    ranks,
    resume,
    worker,
)
from vldd_dist.distillation.objectives import trajectory_matching  # noqa: F401
