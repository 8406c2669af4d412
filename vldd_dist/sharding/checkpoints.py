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
    facts: Callable[[], dict[str, Any]],
    uploads: AsyncWriter,
    stored: Callable[[], Mapping[str, ObjectInfo]] = dict,
) -> None:
    """Save the objects of all ranks as one checkpoint. One process uploads in the background; several ranks wait for each
    other, because the record may only be written when all objects are there.

    Args:
        objects: of this rank; no two ranks use the same name.
        facts, stored: called on the first rank after the objects are written. `stored` lists objects that are in the store
            already (blobs), of all ranks.
    """
    if ranks.world_size == 1:
        uploads.submit(lambda: writer.checkpoints.save(step, objects, facts(), stored()))
        return
    written = ranks.all_gather(writer.checkpoints.write_objects(step, objects))
    if ranks.is_main:
        infos = {name: info for of_rank in written for name, info in of_rank.items()}
        writer.checkpoints.write_record(step, infos | dict(stored()), facts())


def newest_checkpoint(writer: UnitWriter, ranks: Ranks, wanted: Callable[[str], bool] = lambda name: True) -> Checkpoint | None:
    """The newest checkpoint of which every rank can read the objects it wants; None if there is none."""
    for key in ranks.broadcast(writer.checkpoints.keys()):
        checkpoint = writer.checkpoints.read(key, wanted)
        if ranks.all_agree(checkpoint is not None):
            return checkpoint
    return None
