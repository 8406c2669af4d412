"""The student's unroll, as the settings and the number of ranks ask."""

from vldd_dist.distillation.student.local import LocalUnrolling
from vldd_dist.distillation.student.on_ranks import ShardedUnrolling
from vldd_dist.distillation.student.unrolling import Unrolling, UnrollSettings
from vldd_dist.distillation.unroll import Shelf
from vldd_dist.models.dual_encoder import DualEncoder
from vldd_dist.models.losses import Loss
from vldd_dist.sharding.ranks import SOLO, Ranks


def make_unrolling(
    model: DualEncoder,
    loss: Loss,
    settings: UnrollSettings,
    shelf: Shelf | None,
    ranks: Ranks,
    zero_stage: int,
    batch_size: int,
) -> Unrolling:
    """As the settings and the number of ranks ask."""
    if ranks is SOLO and zero_stage == 0:
        return LocalUnrolling(model, loss, settings, shelf)
    return ShardedUnrolling(model, loss, settings, shelf, ranks, zero_stage, batch_size)
