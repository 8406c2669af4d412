"""Training pairs in memory as a data set of one shard, for code that reads caption embeddings and image features."""

from torch import Tensor

from vldd_dist.data.prepared.embeddings import CaptionEmbeddings
from vldd_dist.data.prepared.image_features import ImageFeatures
from vldd_dist.data.prepared.pieces import Piece
from vldd_dist.data.prepared.shard_index import Shard, SplitInfo


class _OnePiece:
    """The piece of the only shard."""

    def __init__(self, piece: Piece) -> None:
        self._piece = piece

    def of(self, shard: Shard) -> Piece:
        return self._piece


def in_memory(features: Tensor, texts: Tensor, first: Tensor) -> tuple[CaptionEmbeddings, ImageFeatures]:
    """Embeddings and features of a data set that has only a training split, with the given pairs.

    Args:
        features: (N, F), features of the images.
        texts: (C, D), embeddings of their captions, grouped by image.
        first: (N + 1,) int64, the row of each image's first caption, followed by C.
    """
    splits = {"train": SplitInfo.of([Shard("", "memory", len(features), len(texts), 0, "")])}
    pieces = _OnePiece({"features": features, "embeddings": texts, "first": first})
    return CaptionEmbeddings(splits, pieces, texts.shape[1]), ImageFeatures(splits, pieces)
