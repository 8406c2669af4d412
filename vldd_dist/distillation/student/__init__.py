"""The student, a dual encoder that gets its trainable parameters as arguments, and the unroller that differentiates its
steps, on one process or several ranks."""

from vldd_dist.config.base import Sharding
from vldd_dist.distillation.student.local_unroller import LocalUnroller
from vldd_dist.distillation.student.sharded_unroller import ShardedUnroller
from vldd_dist.distillation.student.unroller import Unroller, UnrollSettings
from vldd_dist.distillation.unroll import SnapshotStack
from vldd_dist.models.dual_encoder import DualEncoder
from vldd_dist.models.losses import Loss
from vldd_dist.sharding.ranks import SOLO, Ranks


def make_unroller(
    model: DualEncoder,
    loss: Loss,
    settings: UnrollSettings,
    snapshots: SnapshotStack | None,
    ranks: Ranks,
    sharding: Sharding,
    batch_size: int,
) -> Unroller:
    """The unroller of a student: in one process, or on several ranks or a sharding engine.

    Args:
        snapshots: where it keeps the snapshots of an unroll; None: on the student's device.
        batch_size: pairs of an inner step, over all ranks.
    """
    if ranks is SOLO and sharding == "none":
        return LocalUnroller(model, loss, settings, snapshots)
    return ShardedUnroller(model, loss, settings, snapshots, ranks, sharding, batch_size)
