"""Everything that a unit needs, loaded: the process that `processes` forks imports this module."""

import gc

# What is imported stays: it is no garbage, and each fork shares its memory as long as nothing looks at it.
gc.disable()

import vldd_dist.data.prepared.real_batches  # noqa: E402
import vldd_dist.distilled_set.presentation  # noqa: E402, F401
from vldd_dist.plugins import load_all  # noqa: E402

load_all()
gc.freeze()
gc.enable()
