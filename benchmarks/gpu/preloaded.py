"""What every part needs, imported once: the processes of parts and ranks are forked from one that has it. Nothing here
touches a device."""

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
