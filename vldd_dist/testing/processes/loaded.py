"""Importing this module imports everything that a unit needs. The process that `processes` forks does so."""

import gc

# Imported modules stay in memory, so collecting garbage would be useless, and it would write to memory that the forks share.
gc.disable()

import vldd_dist.data.prepared.batches.real_batches  # noqa: E402
import vldd_dist.distilled_set.publishing.presentation  # noqa: E402, F401
from vldd_dist.models import libraries  # noqa: E402
from vldd_dist.plugins import load_all  # noqa: E402

load_all()
libraries.timm()
libraries.transformers()
gc.freeze()
gc.enable()
