"""Caption embeddings: the vector of each distinct caption from the frozen text encoder, computed once and stored."""

import json
from functools import cached_property
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional

from vldd_dist.artifacts import tensors
from vldd_dist.artifacts.units import UnitReader
from vldd_dist.errors import DataError

_NEAREST_CHUNK = 4096


class CaptionEmbeddings:
    """Distinct captions and their vectors.

    Args:
        captions: distinct.
        vectors: (n, D) float32, one row a caption.
    """

    def __init__(self, captions: list[str], vectors: Tensor) -> None:
        assert len(captions) == len(vectors)
        self.captions, self.vectors = captions, vectors

    @property
    def dim(self) -> int:
        return self.vectors.shape[1]

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {caption: row for row, caption in enumerate(self.captions)}

    def lookup(self, captions: list[str]) -> Tensor:
        """The vectors (k, D) of captions. Raises DataError for a caption that was not embedded."""
        try:
            return self.vectors[torch.tensor([self._rows[caption] for caption in captions], dtype=torch.int64)]
        except KeyError as error:
            raise DataError(f"the caption {error.args[0]!r} has no embedding: the dataset and the embeddings differ") from None

    def restricted_to(self, captions: list[str]) -> Self:
        """The embeddings of these distinct captions only, in their order, so that `nearest` finds no other caption. A unit's
        embeddings hold the captions of all splits. Raises DataError for a caption that was not embedded."""
        return type(self)(captions, self.lookup(captions))

    def nearest(self, vectors: Tensor) -> list[tuple[str, float]]:
        """For each of the vectors (k, D), the caption of the largest cosine similarity and that similarity."""
        queries = functional.normalize(vectors.float())
        best = torch.full((len(queries),), -2.0)
        rows = torch.zeros(len(queries), dtype=torch.int64)
        for first in range(0, len(self.vectors), _NEAREST_CHUNK):
            chunk = functional.normalize(self.vectors[first : first + _NEAREST_CHUNK])
            cosine, row = (queries @ chunk.T).max(dim=1)
            better = cosine > best
            best[better], rows[better] = cosine[better], row[better] + first
        return [(self.captions[row], cosine) for row, cosine in zip(rows.tolist(), best.tolist(), strict=True)]

    def encode(self) -> dict[str, bytes]:
        """The objects of a caption_embeddings unit."""
        lines = "".join(json.dumps(caption, ensure_ascii=False) + "\n" for caption in self.captions)
        return {
            "embeddings.safetensors": tensors.encode({"embeddings": self.vectors}),
            "captions.jsonl": lines.encode(),
        }

    @classmethod
    def decode(cls, reader: UnitReader) -> Self:
        """The embeddings of a caption_embeddings unit."""
        vectors = tensors.decode(reader.read("embeddings.safetensors"), reader.url("embeddings.safetensors"))
        # Split at newlines only: a caption may contain other line separators.
        lines = reader.read("captions.jsonl").decode().split("\n")[:-1]
        return cls([json.loads(line) for line in lines], vectors["embeddings"])
