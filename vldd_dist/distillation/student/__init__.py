"""The student, a dual encoder that gets its trainable parameters as arguments, and its unroll on one process or several
ranks."""

from vldd_dist.config.base import Sharding
from vldd_dist.distillation.student.local_unrolling import LocalUnrolling
from vldd_dist.distillation.student.sharded_unrolling import ShardedUnrolling
from vldd_dist.distillation.student.unrolling import Unrolling, UnrollSettings
from vldd_dist.distillation.unroll import SnapshotStack
from vldd_dist.models.dual_encoder import DualEncoder
from vldd_dist.models.losses import Loss
from vldd_dist.sharding.ranks import SOLO, Ranks


def make_unrolling(
    model: DualEncoder,
    loss: Loss,
    settings: UnrollSettings,
    snapshots: SnapshotStack | None,
    ranks: Ranks,
    sharding: Sharding,
    batch_size: int,
) -> Unrolling:
    """The student's unroll: in one process, or on several ranks or a sharding engine.

    Args:
        snapshots: where the unroll keeps its snapshots; None: on the student's device.
        batch_size: pairs of an inner step, over all ranks.
    """
    if ranks is SOLO and sharding == "none":
        return LocalUnrolling(model, loss, settings, snapshots)
    return ShardedUnrolling(model, loss, settings, snapshots, ranks, sharding, batch_size)
