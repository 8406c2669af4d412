"""Merging prepared groups into one data set, and checking what concerns several groups or splits."""

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from vldd_dist.artifacts.units import UnitReader
from vldd_dist.config.sections.data import DataSettings
from vldd_dist.data.facts import ShardGroupFacts, SplitFacts
from vldd_dist.data.preparation.bad_samples import ONCE, too_many
from vldd_dist.data.preparation.prepare import NAMELESS
from vldd_dist.data.prepared.fingerprints import read_fingerprints
from vldd_dist.data.prepared.image_lines import read_lines
from vldd_dist.data.prepared.shard_index import Shard, SplitInfo
from vldd_dist.data.sources.base import SPLITS
from vldd_dist.errors import DataError
from vldd_dist.in_order import in_order

logger = logging.getLogger(__name__)

# Number of groups whose fingerprints are read in parallel.
READERS = 16


def merged_splits(groups: Sequence[UnitReader]) -> dict[str, SplitInfo]:
    """The shards of all groups, in the order of the groups."""
    shards: dict[str, list[Shard]] = {split: [] for split in SPLITS}
    for group in groups:
        for split, of_split in group.facts_as(ShardGroupFacts).splits.items():
            for entry in of_split.shards:
                previous = shards[split][-1] if shards[split] else None
                first = previous.first + previous.images if previous else 0
                sha256 = group.info(f"{entry.name}.tar").sha256
                unit = group.manifest.unit
                shards[split].append(Shard(unit, entry.name, entry.images, entry.captions, first, sha256))
    return {split: SplitInfo.of(of_split) for split, of_split in shards.items()}


def bad_images(groups: Iterable[UnitReader], max_fraction: float) -> dict[str, int]:
    """Split of the source -> number of its samples that were left out.

    Raises:
        DataError: they are more than the allowed fraction of a split; names the shard or folder with the most in one group.
    """
    of_split: dict[str, list[ShardGroupFacts]] = defaultdict(list)
    for group in groups:
        of_split[group.manifest.spec["group"]["split"]].append(group.facts_as(ShardGroupFacts))
    counts = {split: sum(facts.bad.count for facts in of_groups) for split, of_groups in of_split.items()}
    for split, of_groups in of_split.items():
        samples = sum(facts.samples for facts in of_groups)
        if counts[split] > max_fraction * samples:
            most = max((facts.bad for facts in of_groups), key=lambda bad: bad.in_worst)
            how_many = f"{counts[split]} of {samples} images"
            raise too_many(how_many, split, worst=most.worst, in_worst=most.in_worst, max_fraction=max_fraction)
    return counts


def refuse_wrong_sizes(settings: DataSettings, splits: dict[str, SplitInfo], bad: dict[str, int]) -> None:
    """Check that each split has images, and as many as the description requests.

    Raises:
        DataError: it has none, or fewer.
        AssertionError: it has more, because a source, which may be a plug-in, ignores the limit.
    """
    for split, info in splits.items():
        if info.images == 0:
            advice = f"raise data.split.{split}" if split in settings.carved() else "correct the files of data.source"
            raise DataError(f"data: the {split} split has no images: {advice}")
        limit = settings.limits[split]
        if limit is not None and info.images > limit:
            raise AssertionError(
                f"the source {settings.source.name} gave {info.images:,} images of {split}, and data.{split}_images is "
                f"{limit:,}: its `parts` must not have more than `limit` samples"
            )
        if limit is not None and info.images + bad.get(split, 0) < limit:
            carved = settings.carved()
            if split in carved:
                raise DataError(
                    f"data.{split}_images ({limit}) is more than data.split.{split} took ({info.images}): lower it, or raise "
                    f"data.split.{split}"
                )
            has = "data.split leaves" if carved and split == "train" else "the source has"
            raise DataError(f"data.{split}_images ({limit}) is more than {has} ({info.images}): lower it or remove it")


def count_duplicates(groups: Sequence[UnitReader]) -> dict[str, int]:
    """ "SPLIT, SPLIT" -> number of images that are byte for byte in both, for each pair of splits. It needs 16 bytes of memory
    for each image. Images that equal an earlier one of their split are only reported, because real data have some.

    Raises:
        DataError: an image has the same name in two splits of the source, or twice in one (for training images: in one group).
    """
    fingerprints: dict[str, dict[str, Tensor]] = {}
    counts = {", ".join(pair): 0 for pair in combinations(SPLITS, 2)}
    repeated = dict.fromkeys(SPLITS, 0)
    for split in ("val", "test"):
        by_group = list(_all_fingerprints(groups, split))
        fingerprints[split] = {}
        if by_group:
            fingerprints[split] = {kind: torch.cat([tree[kind] for _, tree in by_group]) for kind in ("images", "names")}
            _refuse_repeated_names([group for group, _ in by_group], split, fingerprints[split]["names"])
            # For `_is_in`, which searches in them once for each group.
            for values in fingerprints[split].values():
                values.numpy().sort()
            repeated[split] = _count_repeated(fingerprints[split]["images"].numpy())
    train: list[Tensor] = []
    for split, others in (("train", ("val", "test")), ("val", ("test",))):
        for group, of_group in _all_fingerprints(groups, split):
            if split == "train":
                _refuse_repeated_names([group], split, of_group["names"])
                train.append(of_group["images"])
            for other in others:
                counts[f"{split}, {other}"] += _compare(group, split, of_group, other, fingerprints[other])
    if train:
        # A tar or a file is a group, so that the copies of an image may be in any of them.
        images = torch.cat(train).numpy()
        images.sort()
        repeated["train"] = _count_repeated(images)
    for pair, count in counts.items():
        if count:
            logger.warning("data: %d images are in two splits (%s): recall may look better than it is", count, pair)
    for split, count in repeated.items():
        if count:
            logger.warning("data: %d images of %s equal an earlier image of the split: %s", count, split, ONCE)
    return counts


def _has(group: UnitReader, split: str) -> bool:
    splits = group.facts_as(ShardGroupFacts).splits
    return split in splits and bool(splits[split].shards)


def _all_fingerprints(groups: Sequence[UnitReader], split: str) -> Iterator[tuple[UnitReader, dict[str, Tensor]]]:
    """The groups that have images of a split, in order, with their fingerprints. At most `READERS` groups are in memory."""
    with_images = [group for group in groups if _has(group, split)]
    fingerprints = in_order(lambda group: read_fingerprints(group, split), with_images, threads=READERS, ahead=READERS)
    return zip(with_images, fingerprints, strict=True)


def _compare(group: UnitReader, split: str, of_group: dict[str, Tensor], other: str, of_other: dict[str, Tensor]) -> int:
    """The number of a group's images that another split has too. Raises DataError if they share a name.

    Args:
        of_other: fingerprints of all images of the other split, in ascending order; empty if it has none.
    """
    if not of_other:
        return 0
    names = of_group["names"].numpy()
    shared = _is_in(of_other["names"].numpy(), names) & (names != NAMELESS)
    if shared.any():
        name = _name_of(group, split, int(shared.argmax()))
        raise DataError(f"data: the source has {name} both in the {split} and in the {other} split: remove it from one")
    return int(_is_in(of_other["images"].numpy(), of_group["images"].numpy()).sum())


def _is_in(ordered: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(n,) bool: whether each of n values is one of the others, which are at least one, in ascending order. Unlike `np.isin` it
    does not sort the others at each call."""
    positions = np.searchsorted(ordered, values).clip(max=len(ordered) - 1)
    found: np.ndarray = ordered[positions] == values
    return found


def _count_repeated(ordered: np.ndarray) -> int:
    """The number of values that equal an earlier one, of (n,) in ascending order."""
    return int((ordered[1:] == ordered[:-1]).sum())


def _refuse_repeated_names(groups: Sequence[UnitReader], split: str, fingerprints: Tensor) -> None:
    """Raises DataError if an image of these groups has the name of an earlier one.

    Args:
        fingerprints: of the names of all images of the groups, in their order.
    """
    names = fingerprints.numpy()
    named = _repeats(names) & (names != NAMELESS)
    if named.any():
        position = int(named.argmax())
        for group in groups:
            images = sum(shard.images for shard in group.facts_as(ShardGroupFacts).splits[split].shards)
            if position < images:
                raise DataError(f"data: the source has {_name_of(group, split, position)} twice in the {split} split: {ONCE}")
            position -= images


def _repeats(values: np.ndarray) -> np.ndarray:
    """(n,) bool: whether each of n values equals an earlier one."""
    repeats = np.ones(len(values), dtype=bool)
    repeats[np.unique(values, return_index=True)[1]] = False
    return repeats


def _name_of(group: UnitReader, split: str, position: int) -> str | None:
    """The source's name for an image, given its position among the group's images of the split."""
    for shard in group.facts_as(ShardGroupFacts).splits[split].shards:
        if position < shard.images:
            return read_lines(group, shard.name)[position].identity
        position -= shard.images
    raise AssertionError("there is a fingerprint for every image")


def summary(splits: dict[str, SplitInfo], groups: Iterable[UnitReader], bad: dict[str, int]) -> dict[str, SplitFacts]:
    """Split -> numbers of its images, captions, shards, bytes and bad images, for the manifest."""
    sizes = dict.fromkeys(splits, 0)
    for group in groups:
        for split, of_split in group.facts_as(ShardGroupFacts).splits.items():
            sizes[split] += sum(shard.bytes for shard in of_split.shards)
    return {
        split: SplitFacts(
            images=info.images,
            captions=info.captions,
            shards=len(info.shards),
            bytes=sizes[split],
            bad_images=bad.get(split, 0),
        )
        for split, info in splits.items()
    }
