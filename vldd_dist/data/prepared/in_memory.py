"""Training pairs in memory as a data set of one shard, for code that reads caption embeddings and image features."""

from torch import Tensor

from vldd_dist.data.prepared.dataset import Dataset
from vldd_dist.data.prepared.embeddings import CaptionEmbeddings
from vldd_dist.data.prepared.image_features import ImageFeatures
from vldd_dist.data.prepared.pieces import Piece, Pieces
from vldd_dist.data.prepared.shard_index import Shard, SplitInfo


class _OnePiece(Pieces):
    """One piece for every shard."""

    def __init__(self, piece: Piece) -> None:
        self._piece = piece

    def of(self, shard: Shard) -> Piece:
        return self._piece


class _OneShard(Dataset):
    """Only its index can be read."""

    def __init__(self, images: int, captions: int) -> None:
        self.splits = {"train": SplitInfo.of([Shard("", "memory", images, captions, 0, "")])}


def in_memory(features: Tensor, texts: Tensor, first: Tensor) -> tuple[CaptionEmbeddings, ImageFeatures]:
    """Embeddings and features of a data set that has only a training split, with the given pairs.

    Args:
        features: (N, F), features of the images.
        texts: (C, D), embeddings of their captions, grouped by image.
        first: (N + 1,) int64, the row of each image's first caption, followed by C.
    """
    pieces = _OnePiece({"features": features, "embeddings": texts, "first": first})
    dataset = _OneShard(len(features), len(texts))
    return CaptionEmbeddings(dataset, pieces, texts.shape[1]), ImageFeatures(dataset, pieces)
