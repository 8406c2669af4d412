"""Caption embeddings: the vector of each caption from the frozen text encoder, aligned with the shards."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from vldd_dist.data.prepared.dataset import Dataset
from vldd_dist.data.prepared.pieces import Piece, PieceSource
from vldd_dist.data.prepared.shard_index import SHARD_READERS, Shard, SplitInfo
from vldd_dist.in_order import in_order


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

    def of_shards(self, shards: Iterable[Shard]) -> Iterator[ShardTexts]:
        """The embeddings of each of these shards, in order. The next shards are read meanwhile."""
        return in_order(self.of_shard, shards, threads=SHARD_READERS, ahead=SHARD_READERS)

    def rows(self, split: str, indices: list[int], numbers: list[int]) -> Tensor:
        """The embeddings (k, D) of one caption of each of these images: of the caption with the given number."""
        vectors = torch.empty(len(indices), self.dim)
        found = self.splits[split].shards_with(indices)
        for (shard, positions), texts in zip(found, self.of_shards(shard for shard, _ in found), strict=True):
            for position in positions:
                vectors[position] = texts.vector(indices[position] - shard.first, numbers[position])
        return vectors

    def of_split(self, split: str) -> tuple[Tensor, Tensor]:
        """All embeddings of a split (C, D), grouped by image, and the index of each caption's image (C,) int64."""
        shards = list(self.of_shards(self.splits[split].shards))
        counts = torch.cat([texts.first.diff() for texts in shards])
        return torch.cat([texts.vectors for texts in shards]), torch.arange(len(counts)).repeat_interleave(counts)

    def mean_and_std(self, split: str) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (D,) float32 over all captions of a split; a few shards at a time are in memory."""
        total, squares, count = torch.zeros(self.dim).double(), torch.zeros(self.dim).double(), 0
        for texts in self.of_shards(self.splits[split].shards):
            vectors = texts.vectors.double()
            total, squares, count = total + vectors.sum(0), squares + vectors.square().sum(0), count + len(vectors)
        mean = total / count
        variance = (squares - count * mean.square()) / max(count - 1, 1)
        return mean.float(), variance.clamp(min=0).sqrt().float()

    def nearest(self, dataset: Dataset, split: str, *queries: Tensor) -> list[list[tuple[str, float]]]:
        """For each of the queries, which are vectors (k, D), and each of its vectors: the caption of a split with the largest
        cosine similarity, and that similarity. The split is read once for all queries.

        Args:
            dataset: has the captions' text.
        """
        searches = [_Search(vectors) for vectors in queries]
        for number, texts in enumerate(self.of_shards(self.splits[split].shards)):
            captions = functional.normalize(texts.vectors)
            for search in searches:
                search.compare(number, captions)
        numbers = torch.cat([search.shards for search in searches]).unique().tolist()
        lines = dataset.lines_of(self.splits[split].shards[number] for number in numbers)
        captions_of = {
            number: [caption for line in of_shard for caption in line.captions]
            for number, of_shard in zip(numbers, lines, strict=True)
        }
        return [search.found(captions_of) for search in searches]


class _Search:
    """A search for the captions nearest to vectors (k, D).

    Attributes:
        shards, rows, cosines: (k,) each, the place of the nearest of the captions that were compared, and its similarity.
    """

    def __init__(self, vectors: Tensor) -> None:
        self.vectors = functional.normalize(vectors.float())
        self.shards, self.rows = (torch.zeros(len(vectors), dtype=torch.int64) for _ in range(2))
        self.cosines = torch.full((len(vectors),), -2.0)

    def compare(self, shard: int, captions: Tensor) -> None:
        """Compare the vectors with the captions (C, D) of a shard, which are normalised to norm one."""
        cosine, row = (self.vectors @ captions.T).max(dim=1)
        better = cosine > self.cosines
        self.cosines[better], self.rows[better], self.shards[better] = cosine[better], row[better], shard

    def found(self, captions: Mapping[int, list[str]]) -> list[tuple[str, float]]:
        """The nearest caption of each vector, from the captions of each shard, and its similarity."""
        where = zip(self.shards.tolist(), self.rows.tolist(), self.cosines.tolist(), strict=True)
        return [(captions[shard][row], cosine) for shard, row, cosine in where]
