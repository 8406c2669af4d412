"""Imports everything that the parts need, once: the processes of parts and ranks are forked from a process that has imported
this module. Nothing here uses a device."""

from benchmarks.gpu import worker  # noqa: F401
from benchmarks.gpu.checks import gradients, memory, out_of_memory, ranks, resume  # noqa: F401
from benchmarks.gpu.figures import device, evaluation, experts, outer_steps  # noqa: F401
from vldd_dist.distillation.objectives import trajectory_matching  # noqa: F401
from vldd_dist.models import libraries

libraries.timm()
