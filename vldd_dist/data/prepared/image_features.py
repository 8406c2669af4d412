"""Features of a frozen image tower, computed once for each image and aligned with the shards."""

from collections.abc import Mapping

import torch
from torch import Tensor

from vldd_dist.data.prepared.pieces import PieceSource
from vldd_dist.data.prepared.shard_index import Shard, SplitInfo


class ImageFeatures:
    """The features (N, F) float32 of all images of a data set, read shard by shard."""

    def __init__(self, splits: Mapping[str, SplitInfo], pieces: PieceSource) -> None:
        self.splits, self.pieces = splits, pieces

    def of_shard(self, shard: Shard) -> Tensor:
        """The features (n, F) of a shard's images."""
        return self.pieces.of(shard)["features"]

    def of_split(self, split: str) -> Tensor:
        """The features (N, F) of all images of a split."""
        return torch.cat([self.of_shard(shard) for shard in self.splits[split].shards])
