"""Features of a frozen image backbone, computed once for each image and aligned with the shards."""

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

from vldd_dist.data.prepared.pieces import PieceSource
from vldd_dist.data.prepared.shard_index import SHARD_READERS, Shard, SplitInfo
from vldd_dist.in_order import in_order


class ImageFeatures:
    """The features (N, F) float32 of all images of a data set, read shard by shard."""

    def __init__(self, splits: Mapping[str, SplitInfo], pieces: PieceSource) -> None:
        self.splits, self.pieces = splits, pieces

    def of_shard(self, shard: Shard) -> Tensor:
        """The features (n, F) of a shard's images."""
        return self.pieces.of(shard)["features"]

    def of_shards(self, shards: Iterable[Shard]) -> Iterator[Tensor]:
        """The features of each of these shards, in order. The next shards are read meanwhile."""
        return in_order(self.of_shard, shards, threads=SHARD_READERS, ahead=SHARD_READERS)

    def of_split(self, split: str) -> Tensor:
        """The features (N, F) of all images of a split."""
        return torch.cat(list(self.of_shards(self.splits[split].shards)))
