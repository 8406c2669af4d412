"""Checkpoints that several ranks write and any number of ranks reads."""

from collections.abc import Callable
from typing import Any

from vldd_dist.sharding.ranks import Ranks
from vldd_dist.storage.background import Background
from vldd_dist.storage.units import Checkpoint, UnitWriter


def save_together(
    writer: UnitWriter,
    ranks: Ranks,
    step: int,
    objects: dict[str, bytes],
    facts: Callable[[], dict[str, Any]],
    uploads: Background,
) -> None:
    """Keep every rank's objects, whose names differ, under one mark. One process uploads beside the work that follows; several
    wait for each other, for the mark says that all objects are there.

    Args:
        facts: asked when the objects are written, on the first rank.
    """
    if ranks.world == 1:
        uploads.submit(lambda: writer.save_checkpoint(step, objects, facts()))
        return
    written = ranks.gather(writer.write_for_checkpoint(step, objects))
    if ranks.first:
        writer.mark_checkpoint(step, {name: info for infos in written for name, info in infos.items()}, facts())


def newest_checkpoint(writer: UnitWriter, ranks: Ranks, wanted: Callable[[str], bool] = lambda name: True) -> Checkpoint | None:
    """The newest one of which every rank could read what it wants."""
    for key in ranks.share(writer.checkpoint_keys()):
        checkpoint = writer.read_checkpoint(key, wanted)
        if ranks.agree(checkpoint is not None):
            return checkpoint
    return None
