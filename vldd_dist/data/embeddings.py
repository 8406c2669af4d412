"""Caption embeddings: each distinct caption's vector out of the frozen text tower, computed once and kept."""

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
    """Args:
    captions: distinct.
    vectors: (n, D) float32, a row a caption.
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
        """(k, D). Raises DataError for a caption that was never embedded."""
        try:
            return self.vectors[torch.tensor([self._rows[caption] for caption in captions], dtype=torch.int64)]
        except KeyError as error:
            raise DataError(f"the caption {error.args[0]!r} has no embedding: the dataset and the embeddings differ") from None

    def restricted_to(self, captions: list[str]) -> Self:
        """Of these distinct captions only, in their order: `nearest` then finds no other, and `vectors` (k, D) are theirs.
        A unit's embeddings hold the captions of all splits; `restricted_to(dataset.distinct_captions("train"))` those of the
        training split. Raises DataError for a caption that was never embedded."""
        return type(self)(captions, self.lookup(captions))

    def nearest(self, vectors: Tensor) -> list[tuple[str, float]]:
        """For each of (k, D) vectors the caption of largest cosine similarity, and that cosine."""
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
        """Back from such a unit."""
        vectors = tensors.decode(reader.read("embeddings.safetensors"), reader.url("embeddings.safetensors"))
        # A caption may hold any character, a line separator too: only the newline ends a line.
        lines = reader.read("captions.jsonl").decode().split("\n")[:-1]
        return cls([json.loads(line) for line in lines], vectors["embeddings"])
