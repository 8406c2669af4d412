"""Checkpoints that several ranks write and any number of ranks reads."""

from collections.abc import Callable
from typing import Any

from vldd_dist.artifacts.units import Checkpoint, UnitWriter
from vldd_dist.sharding.ranks import Ranks
from vldd_dist.store.async_writer import AsyncWriter


def save_together(
    writer: UnitWriter,
    ranks: Ranks,
    step: int,
    objects: dict[str, bytes],
    facts: Callable[[], dict[str, Any]],
    uploads: AsyncWriter,
) -> None:
    """Keep every rank's objects, whose names differ, under one mark. One process uploads beside the work that follows; several
    wait for each other, for the mark says that all objects are there.

    Args:
        facts: asked when the objects are written, on the first rank.
    """
    if ranks.world_size == 1:
        uploads.submit(lambda: writer.save_checkpoint(step, objects, facts()))
        return
    written = ranks.all_gather(writer.write_for_checkpoint(step, objects))
    if ranks.is_main:
        writer.mark_checkpoint(step, {name: info for infos in written for name, info in infos.items()}, facts())


def newest_checkpoint(writer: UnitWriter, ranks: Ranks, wanted: Callable[[str], bool] = lambda name: True) -> Checkpoint | None:
    """The newest one of which every rank could read what it wants."""
    for key in ranks.broadcast(writer.checkpoint_keys()):
        checkpoint = writer.read_checkpoint(key, wanted)
        if ranks.all_agree(checkpoint is not None):
            return checkpoint
    return None
