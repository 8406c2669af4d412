"""Checkpoints that several ranks write together and any number of ranks can read."""

from collections.abc import Callable, Mapping
from typing import Any

from vldd_dist.artifacts.checkpoints import Checkpoint
from vldd_dist.artifacts.unit_writer import UnitWriter
from vldd_dist.sharding.ranks import Ranks
from vldd_dist.store.async_writer import AsyncWriter
from vldd_dist.store.objects import ObjectInfo


def save_together(
    writer: UnitWriter,
    ranks: Ranks,
    step: int,
    objects: dict[str, bytes],
    record: Callable[[], tuple[dict[str, Any], Mapping[str, ObjectInfo]]],
    uploads: AsyncWriter,
    before: Callable[[], None] = lambda: None,
) -> None:
    """Save the objects of all ranks as one checkpoint. A single process uploads in the background. Several ranks upload before
    this returns, because the record may be written only after the objects of all ranks.

    Args:
        objects: name -> content of this rank's objects; no two ranks use the same name.
        record: returns the facts for the record, and the objects of all ranks that are in the store already (blobs). It is
            called on rank 0, after `before`.
        before: writes these blobs; called on every rank. In a single process it is part of the upload, and called again after
            an outage.

    Raises:
        AlreadyCommitted: another attempt has committed the unit.
    """
    if ranks.world_size == 1:

        def upload() -> None:
            before()
            writer.checkpoints.save(step, objects, *record())

        uploads.submit(upload)
        return
    before()
    # One rank asks for all: if each asked by itself, some could find a manifest that others do not, and those would wait.
    if ranks.broadcast(ranks.is_main and writer.checkpoints.is_committed()):
        writer.checkpoints.stop()
    written = ranks.all_gather(writer.checkpoints.write_objects(step, objects))
    if ranks.is_main:
        infos = {name: info for rank_infos in written for name, info in rank_infos.items()}
        facts, stored = record()
        writer.checkpoints.write_record(step, infos | dict(stored), facts)


def newest_checkpoint(writer: UnitWriter, ranks: Ranks, wanted: Callable[[str], bool] = lambda name: True) -> Checkpoint | None:
    """The newest checkpoint from which every rank can read the objects that it wants; None if there is none. Newer ones, which
    are incomplete or damaged, are removed: only the last two are kept, and theirs would be the highest steps."""
    tried: set[str] = set()
    # Again, because another attempt may have replaced those that were listed while they were read.
    while untried := [key for key in ranks.broadcast(writer.checkpoints.keys()) if key not in tried]:
        for key in untried:
            checkpoint = writer.checkpoints.read(key, wanted)
            if ranks.all_agree(checkpoint is not None):
                return checkpoint
            if ranks.is_main:
                writer.checkpoints.remove(key)
        tried.update(untried)
    return None
