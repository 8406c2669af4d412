"""Caption embeddings: the vector of each caption from the frozen text encoder, aligned with the shards."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from vldd_dist.data.prepared.dataset import Dataset
from vldd_dist.data.prepared.pieces import Piece, PieceSource
from vldd_dist.data.prepared.shard_index import Shard, SplitInfo


@dataclass(frozen=True)
class ShardTexts:
    """The caption embeddings of a shard.

    Attributes:
        vectors: (C, D) float32, the captions of the shard's first image, then of its second, and so on.
        first: (n + 1,) int64, the row of each image's first caption, followed by C.
    """

    vectors: Tensor
    first: Tensor

    def caption_count(self, position: int) -> int:
        """The number of captions of the image at a position in the shard."""
        return int(self.first[position + 1] - self.first[position])

    def vector(self, position: int, number: int) -> Tensor:
        """The embedding (D,) of one caption of the image at a position in the shard."""
        return self.vectors[int(self.first[position]) + number]

    def as_piece(self) -> Piece:
        return {"embeddings": self.vectors, "first": self.first}


class CaptionEmbeddings:
    """The embeddings of all captions of a data set, read shard by shard.

    Attributes:
        splits: the shards of each split.
        dim: D.
    """

    def __init__(self, splits: Mapping[str, SplitInfo], pieces: PieceSource, dim: int) -> None:
        self.splits, self.pieces, self.dim = splits, pieces, dim

    def of_shard(self, shard: Shard) -> ShardTexts:
        """The embeddings of the captions of a shard's images."""
        piece = self.pieces.of(shard)
        return ShardTexts(piece["embeddings"], piece["first"])

    def rows(self, split: str, indices: list[int], numbers: list[int]) -> Tensor:
        """The embeddings (k, D) of one caption of each of these images: of the caption with the given number."""
        vectors = torch.empty(len(indices), self.dim)
        for shard, positions in self.splits[split].shards_with(indices):
            texts = self.of_shard(shard)
            for position in positions:
                vectors[position] = texts.vector(indices[position] - shard.first, numbers[position])
        return vectors

    def of_split(self, split: str) -> tuple[Tensor, Tensor]:
        """All embeddings of a split (C, D), grouped by image, and the index of each caption's image (C,) int64."""
        shards = [self.of_shard(shard) for shard in self.splits[split].shards]
        counts = torch.cat([texts.first.diff() for texts in shards])
        return torch.cat([texts.vectors for texts in shards]), torch.arange(len(counts)).repeat_interleave(counts)

    def mean_and_std(self, split: str) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (D,) float32 over all captions of a split; one shard at a time is in memory."""
        total, squares, count = torch.zeros(self.dim).double(), torch.zeros(self.dim).double(), 0
        for shard in self.splits[split].shards:
            vectors = self.of_shard(shard).vectors.double()
            total, squares, count = total + vectors.sum(0), squares + vectors.square().sum(0), count + len(vectors)
        mean = total / count
        variance = (squares - count * mean.square()) / max(count - 1, 1)
        return mean.float(), variance.clamp(min=0).sqrt().float()

    def nearest(self, dataset: Dataset, split: str, vectors: Tensor) -> list[tuple[str, float]]:
        """For each of the vectors (k, D), the caption of a split with the largest cosine similarity, and that similarity.

        Args:
            dataset: has the captions' text.
        """
        queries = functional.normalize(vectors.float())
        best = torch.full((len(queries),), -2.0)
        rows, shards = torch.zeros(len(queries), dtype=torch.int64), torch.zeros(len(queries), dtype=torch.int64)
        for number, searched in enumerate(self.splits[split].shards):
            cosine, row = (queries @ functional.normalize(self.of_shard(searched).vectors).T).max(dim=1)
            better = cosine > best
            best[better], rows[better], shards[better] = cosine[better], row[better], number
        captions: dict[int, list[str]] = {}
        for number in shards.unique().tolist():
            lines = dataset.lines(self.splits[split].shards[number])
            captions[number] = [caption for line in lines for caption in line.captions]
        where = zip(shards.tolist(), rows.tolist(), best.tolist(), strict=True)
        return [(captions[shard][row], cosine) for shard, row, cosine in where]
