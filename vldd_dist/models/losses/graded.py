"""The common part of losses with soft targets S in place of 1 for a matching and 0 for any other text."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Self

import torch
from pydantic import Field
from torch import Tensor

from vldd_dist.models.losses.base import Learned
from vldd_dist.models.losses.cosine import CosineLoss
from vldd_dist.models.losses.similarity import AnySimilarity, LowRankSimilarity, NoSimilarity


class GradedLoss(CosineLoss):
    """A loss of the logits and the similarities S of a batch (LoRS, Xu et al. 2406.03793). For real pairs S is the identity."""

    similarity: AnySimilarity = Field(
        LowRankSimilarity(),
        description=(
            "Similarity that distillation learns: {kind: low_rank, rank, alpha, lr}, {kind: full, lr}, or none: the identity."
        ),
    )

    @abstractmethod
    def of_similarity(self, logits: Tensor, similarity: Tensor) -> Tensor:
        """The scalar loss of logits (B, B) and similarities (B, B), images by texts."""

    def of_logits(self, logits: Tensor, rows: Mapping[str, Tensor]) -> Tensor:
        # Real pairs have no row tensors.
        similarity = self.similarity_of(rows)
        if similarity is None:
            similarity = torch.eye(len(logits), dtype=logits.dtype, device=logits.device)
        return self.of_similarity(logits, similarity)

    def similarity_of(self, rows: Mapping[str, Tensor]) -> Tensor | None:
        owned = self.similarity.owned
        return self.similarity.matrix(rows) if owned and owned <= rows.keys() else None

    def of_real_pairs(self) -> Self:
        return super().of_real_pairs().model_copy(update={"similarity": NoSimilarity()})

    def check_rows(self, rows: Mapping[str, Tensor], total: int) -> None:
        super().check_rows(rows, total)
        self.similarity.check_rows(rows, total)

    def joined_rows(self, parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        others = [{name: rows for name, rows in part.items() if name not in self.similarity.owned} for part in parts]
        return super().joined_rows(others) | self.similarity.joined_rows(parts)

    def learned_rows(self, numbers: range, total: int) -> dict[str, Learned]:
        return self.similarity.learned_rows(numbers, total)


class SymmetricLoss(GradedLoss):
    """The mean of one loss over both directions, images to texts and texts to images."""

    @abstractmethod
    def of_rows(self, logits: Tensor, similarity: Tensor) -> Tensor:
        """The scalar loss of one direction: a row of logits (B, B) and of similarities (B, B) has an image's texts, or a text's
        images."""

    def of_similarity(self, logits: Tensor, similarity: Tensor) -> Tensor:
        return (self.of_rows(logits, similarity) + self.of_rows(logits.T, similarity.T)) / 2
