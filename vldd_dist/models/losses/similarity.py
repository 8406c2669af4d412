"""The learned similarity S (M, M) of every image with every text of a set (LoRS, Xu et al. 2406.03793), stored as row tensors.

For a minibatch, a loss needs the (B, B) part of S that belongs to its pairs.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import BeforeValidator, Field, NonNegativeFloat, PositiveFloat
from torch import Tensor

from vldd_dist.config.base import Positive, Section
from vldd_dist.models.losses.base import Learned
from vldd_dist.seeding import derive_seed

DIAGONAL, LEFT, RIGHT = "similarity_diagonal", "similarity_left", "similarity_right"
MATRIX, NUMBER = "similarity", "number"

OuterRate = NonNegativeFloat


class Similarity(Section):
    """A parametrisation of S by row tensors of the loss. Initially S is the identity.

    Attributes:
        owned: names of these row tensors.
    """

    owned: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def learned_rows(self, numbers: range, total: int) -> dict[str, Learned]:
        """See `Loss.learned_rows`."""

    def check_rows(self, rows: Mapping[str, Tensor], total: int) -> None:
        """See `Loss.check_rows`; checks values, not shapes."""

    def joined_rows(self, parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """See `Loss.joined_rows`; for the row tensors that it owns."""
        return {name: torch.cat([part[name] for part in parts]) for name in sorted(self.owned)}

    @abstractmethod
    def matrix(self, rows: Mapping[str, Tensor]) -> Tensor:
        """S (B, B), images by texts, of B pairs with these row tensors."""


class NoSimilarity(Similarity):
    """The identity: each image matches its own text only."""

    kind: Literal["none"] = "none"

    def learned_rows(self, numbers: range, total: int) -> dict[str, Learned]:
        return {}

    def matrix(self, rows: Mapping[str, Tensor]) -> Tensor:
        raise AssertionError("the identity is not stored in row tensors")


class LowRankSimilarity(Similarity):
    """S = diag(a) + (alpha / r) L R^T, with a = `similarity_diagonal` (M,), initially 1; L = `similarity_left` (M, r),
    initially drawn from N(0, 1); and R = `similarity_right` (M, r), initially 0."""

    owned: ClassVar[frozenset[str]] = frozenset({DIAGONAL, LEFT, RIGHT})
    kind: Literal["low_rank"] = "low_rank"
    rank: Positive = Field(10, description="The rank r; each pair has 2 r + 1 numbers.")
    alpha: PositiveFloat = Field(1.0, description="The low-rank part is scaled by alpha / rank.")
    lr: OuterRate = Field(
        0.005, description="Outer learning rate of a, L and R, for distill.optimiser: adam; 0 keeps the identity."
    )

    def learned_rows(self, numbers: range, total: int) -> dict[str, Learned]:
        starts = {
            DIAGONAL: torch.ones(len(numbers)),
            LEFT: torch.stack([_draw_row(self.rank, number) for number in numbers]) if numbers else torch.empty(0, self.rank),
            RIGHT: torch.zeros(len(numbers), self.rank),
        }
        return {name: Learned(start, self.lr) for name, start in starts.items()}

    def matrix(self, rows: Mapping[str, Tensor]) -> Tensor:
        return rows[DIAGONAL].diag() + (self.alpha / self.rank) * rows[LEFT] @ rows[RIGHT].T


def _draw_row(rank: int, number: int) -> Tensor:
    """The initial row (r,) of L for the pair with this number."""
    return torch.randn(rank, generator=torch.Generator().manual_seed(derive_seed(LEFT, number)))


class FullSimilarity(Similarity):
    """Every element of S: row tensors `similarity` (M, M), and `number` (M,) int64, the column of each pair, by which a
    minibatch finds its columns."""

    owned: ClassVar[frozenset[str]] = frozenset({MATRIX, NUMBER})
    kind: Literal["full"] = "full"
    lr: OuterRate = Field(0.005, description="Outer learning rate of S, for distill.optimiser: adam; 0 keeps the identity.")

    def learned_rows(self, numbers: range, total: int) -> dict[str, Learned]:
        columns = torch.tensor(numbers, dtype=torch.int64)
        start = (columns[:, None] == torch.arange(total)).float()
        return {MATRIX: Learned(start, self.lr), NUMBER: Learned(columns, 0)}

    def check_rows(self, rows: Mapping[str, Tensor], total: int) -> None:
        if not torch.equal(rows[NUMBER].sort().values, torch.arange(total)):
            raise ValueError(f"{NUMBER!r} must hold each of 0 to {total - 1} once: they are columns of {MATRIX!r}")

    def joined_rows(self, parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Between pairs of two sets S is 0; these elements are never used."""
        whole = torch.block_diag(*(part[MATRIX] for part in parts))
        return {MATRIX: whole, NUMBER: torch.arange(len(whole), device=whole.device)}

    def matrix(self, rows: Mapping[str, Tensor]) -> Tensor:
        return rows[MATRIX][:, rows[NUMBER]]


KINDS: dict[str, type[Similarity]] = {"none": NoSimilarity, "low_rank": LowRankSimilarity, "full": FullSimilarity}


def chosen_similarity(given: Any) -> Any:
    """The similarity that a description names: the name of a kind, which gets its defaults, or a mapping of settings, whose
    `kind` is low_rank if it is left out.

    Raises:
        ValueError: the kind is unknown, or its settings are wrong.
    """
    if isinstance(given, Similarity):
        return given
    settings = {"kind": given} if isinstance(given, str) else given
    if not isinstance(settings, dict):
        raise ValueError("expected a kind of similarity, or a mapping with `kind` and its settings")
    kind = settings.get("kind", "low_rank")
    if not (isinstance(kind, str) and kind in KINDS):
        raise ValueError(f"{str(kind)[:80]!r} is not a kind of similarity: choose from {', '.join(KINDS)}")
    return KINDS[kind].model_validate(settings)


AnySimilarity = Annotated[NoSimilarity | LowRankSimilarity | FullSimilarity, BeforeValidator(chosen_similarity)]
