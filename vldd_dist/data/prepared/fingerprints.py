"""Fingerprints of a group's images and of their names, from which equal images of several groups or data sets are found.

The object FINGERPRINTS of a `shard_group` unit has, for each split with images, `SPLIT.images` and `SPLIT.names`, (n,) int64 in
the order of the shards.
"""

from torch import Tensor

from vldd_dist.artifacts.tensor_files import tensors
from vldd_dist.artifacts.units import UnitReader

FINGERPRINTS = "fingerprints.safetensors"


def read_fingerprints(group: UnitReader, split: str) -> dict[str, Tensor]:
    """Fingerprints of a group's `images` and `names` of a split, (n,) int64 each. The group has images of this split."""
    tree = tensors.decode(group.read(FINGERPRINTS), group.url(FINGERPRINTS))
    return {kind: tree[f"{split}.{kind}"] for kind in ("images", "names")}
