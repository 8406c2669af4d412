"""From prepared groups to one data set: the splits' shards, and what is wrong between groups and between splits."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vldd_dist.artifacts import tensors
from vldd_dist.artifacts.units import UnitReader
from vldd_dist.config.sections.data import DataSettings
from vldd_dist.data.in_order import in_order
from vldd_dist.data.preparation.bad_samples import too_many
from vldd_dist.data.preparation.prepare import NAMELESS
from vldd_dist.data.prepared.image_lines import read_lines
from vldd_dist.data.prepared.shard_index import Shard, SplitInfo
from vldd_dist.data.sources.base import SPLITS
from vldd_dist.errors import DataError

logger = logging.getLogger(__name__)

# Groups whose fingerprints are read at once.
READERS = 16


def merged_splits(groups: Sequence[UnitReader]) -> dict[str, SplitInfo]:
    """The shards of all groups, in the order of the groups."""
    shards: dict[str, list[Shard]] = {split: [] for split in SPLITS}
    for group in groups:
        for split, given in group.facts["splits"].items():
            for entry in given["shards"]:
                before = shards[split][-1] if shards[split] else None
                first = before.first + before.images if before else 0
                sha256 = group.info(f"{entry['name']}.tar").sha256
                unit = group.manifest.unit
                shards[split].append(Shard(unit, entry["name"], entry["images"], entry["captions"], first, sha256))
    return {split: SplitInfo.of(found) for split, found in shards.items()}


def bad_images(groups: Iterable[UnitReader], max_fraction: float) -> dict[str, int]:
    """Split of the source -> number of its samples that were left out.

    Raises:
        DataError: more than the allowed fraction of a split; names the container with the most of one group.
    """
    found: dict[str, tuple[int, int, int, str]] = {}
    for group in groups:
        split, bad = group.manifest.spec["group"]["split"], group.facts["bad"]
        count, samples, most, worst = found.get(split, (0, 0, 0, ""))
        if bad["in_worst"] > most:
            most, worst = bad["in_worst"], bad["worst"]
        found[split] = count + bad["count"], samples + group.facts["samples"], most, worst
    for split, (count, samples, most, worst) in found.items():
        if count > max_fraction * samples:
            raise too_many(f"{count} of {samples} images", split, (worst, most), max_fraction)
    return {split: count for split, (count, *_) in found.items()}


def refuse_small_splits(settings: DataSettings, splits: dict[str, SplitInfo], bad: dict[str, int]) -> None:
    """Raises DataError for a split that has no images, or fewer than were asked for."""
    for split, info in splits.items():
        if info.images == 0:
            carved = split not in settings.source.own_splits()
            mend = f"raise data.split.{split}" if carved else "correct data.source's files"
            raise DataError(f"data: the {split} split has no images: {mend}")
        wanted = settings.limits[split]
        if wanted is not None and info.images + bad.get(split, 0) < wanted:
            raise DataError(f"data.{split}_images: {wanted} asked for, the source has {info.images}: lower it or leave it out")


def count_duplicates(groups: Sequence[UnitReader]) -> dict[str, int]:
    """Of each two splits, "SPLIT, SPLIT": images that are byte for byte in both. 16 bytes an image are held in memory of all
    splits but the training split.

    Raises:
        DataError: the source names an image in two splits.
    """
    others: dict[str, dict[str, Tensor]] = {}
    for split in ("val", "test"):
        given = [found for _, found in _all_fingerprints(groups, split)]
        others[split] = {kind: torch.cat([one[kind] for one in given]) for kind in ("images", "names")} if given else {}
    counts = {", ".join(pair): 0 for pair in combinations(SPLITS, 2)}
    for split, others_of_it in (("train", ("val", "test")), ("val", ("test",))):
        for group, own in _all_fingerprints(groups, split):
            for other in others_of_it:
                counts[f"{split}, {other}"] += _compare(group, split, own, other, others[other])
    for pair, count in counts.items():
        if count:
            logger.warning("data: %d images are in two splits, %s: recall may look better than it is", count, pair)
    return counts


def _has(group: UnitReader, split: str) -> bool:
    return bool(group.facts["splits"].get(split, {}).get("shards"))


def _all_fingerprints(groups: Sequence[UnitReader], split: str) -> Iterator[tuple[UnitReader, dict[str, Tensor]]]:
    """The groups that have images of a split, in order, with their fingerprints. Those of `READERS` groups are in memory."""
    having = [group for group in groups if _has(group, split)]
    found = in_order(lambda group: _fingerprints(group, split), having, threads=READERS, ahead=READERS)
    return zip(having, found, strict=True)


def _fingerprints(group: UnitReader, split: str) -> dict[str, Tensor]:
    name = "fingerprints.safetensors"
    found = tensors.decode(group.read(name), group.url(name))
    return {kind: found[f"{split}.{kind}"] for kind in ("images", "names")}


def _compare(group: UnitReader, split: str, own: dict[str, Tensor], other: str, theirs: dict[str, Tensor]) -> int:
    if not theirs:
        return 0
    named = np.isin(own["names"].numpy(), theirs["names"].numpy()) & (own["names"].numpy() != NAMELESS)
    if named.any():
        name = _name_of(group, split, int(named.argmax()))
        raise DataError(f"data: the source has {name} both in the {split} and in the {other} split: leave it out of one")
    return int(np.isin(own["images"].numpy(), theirs["images"].numpy()).sum())


def _name_of(group: UnitReader, split: str, position: int) -> str | None:
    """What the source calls an image, by its position among the group's images of the split."""
    for shard in group.facts["splits"][split]["shards"]:
        if position < shard["images"]:
            return read_lines(group, shard["name"])[position].identity
        position -= shard["images"]
    raise AssertionError("a fingerprint for every image")


def summary(splits: dict[str, SplitInfo], groups: Iterable[UnitReader], bad: dict[str, int]) -> dict[str, Any]:
    """Split -> its numbers, for the manifest."""
    sizes = dict.fromkeys(splits, 0)
    for group in groups:
        for split, given in group.facts["splits"].items():
            sizes[split] += sum(shard["bytes"] for shard in given["shards"])
    return {
        split: {
            "images": info.images,
            "captions": info.captions,
            "shards": len(info.shards),
            "bytes": sizes[split],
            "bad_images": bad.get(split, 0),
        }
        for split, info in splits.items()
    }
