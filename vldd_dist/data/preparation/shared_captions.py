"""Captions that several images of a split have. Recall counts a caption as right only for the image that it belongs to."""

import logging
from collections.abc import Iterable, Sequence

from vldd_dist.artifacts.units import UnitReader
from vldd_dist.data.facts import ShardGroupFacts, SharedCaptions
from vldd_dist.data.prepared.image_lines import read_lines
from vldd_dist.in_order import in_order

logger = logging.getLogger(__name__)

# Number of shards whose captions are read in parallel.
READERS = 16
# The splits on which recall is measured. Training captions are not compared: all of them would be read again.
MEASURED = ("val", "test")


def find_shared(groups: Sequence[UnitReader]) -> dict[str, SharedCaptions]:
    """Split -> images whose captions another image of the split has too, for each split on which recall is measured. They are
    only reported, because real data have some. It keeps the captions of one split in memory."""
    found = {split: count_shared(_captions(groups, split)) for split in MEASURED}
    for split, shared in found.items():
        if sentence := shared.in_words(split):
            logger.warning("data: %s", sentence)
    return found


def _captions(groups: Sequence[UnitReader], split: str) -> Iterable[list[str]]:
    """The captions of each image of a split."""
    splits = [(group, group.facts_as(ShardGroupFacts).splits) for group in groups]
    shards = [(group, shard.name) for group, by_split in splits if split in by_split for shard in by_split[split].shards]
    for lines in in_order(lambda shard: read_lines(*shard), shards, threads=READERS, ahead=READERS):
        yield from (line.captions for line in lines)


def count_shared(images: Iterable[list[str]]) -> SharedCaptions:
    """The images of which all, and of which some but not all, captions belong to another image too.

    Args:
        images: the captions of each image; texts that differ in anything, such as the case of a letter, are different.
    """
    # Caption -> the only image that has it; None: there are several.
    only: dict[str, int | None] = {}
    captions = [frozenset(of_image) for of_image in images]
    for number, of_image in enumerate(captions):
        only.update((caption, None if caption in only else number) for caption in of_image)
    shared = [sum(only[caption] is None for caption in of_image) for of_image in captions]
    everything = sum(count == len(of_image) for count, of_image in zip(shared, captions, strict=True))
    return SharedCaptions(images=len(captions), all_shared=everything, some_shared=sum(map(bool, shared)) - everything)
