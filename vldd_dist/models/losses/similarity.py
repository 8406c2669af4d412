"""A learned similarity of every image with every text of a set, S (M, M), as rows of its pairs (LoRS, Xu et al. 2406.03793).

Of a minibatch a loss needs the rows and the columns of its pairs, (B, B).
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor

from vldd_dist.config.base import Positive, Rate, Section
from vldd_dist.models.losses.base import Learned
from vldd_dist.seeding import derive_seed

DIAGONAL, LEFT, RIGHT = "similarity_diagonal", "similarity_left", "similarity_right"
FULL, NUMBER = "similarity", "number"

OuterRate = Annotated[float, Field(ge=0)]


class Similarity(Section):
    """How S is made of the rows that a loss owns. At the start of a set it is the identity.

    Attributes:
        owned: names of the rows.
    """

    owned: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def learned_rows(self, numbers: range, total: int) -> dict[str, Learned]:
        """As `Loss.learned_rows`."""

    def check_rows(self, rows: Mapping[str, Tensor], total: int) -> None:
        """As `Loss.check_rows`, of what the shapes do not say."""

    def joined_rows(self, parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """As `Loss.joined_rows`, of the rows owned."""
        return {name: torch.cat([part[name] for part in parts]) for name in sorted(self.owned)}

    @abstractmethod
    def matrix(self, rows: Mapping[str, Tensor]) -> Tensor:
        """S (B, B) of B pairs with these rows, images by texts."""


class NoSimilarity(Similarity):
    """The identity: an image belongs to its own text alone."""

    kind: Literal["none"] = "none"

    def learned_rows(self, numbers: range, total: int) -> dict[str, Learned]:
        return {}

    def matrix(self, rows: Mapping[str, Tensor]) -> Tensor:
        raise AssertionError("without rows there is no similarity but the identity")


class LowRankSimilarity(Similarity):
    """S = diag(a) + (alpha / r) L R^T: rows `similarity_diagonal` (M,), which start at 1, `similarity_left` (M, r) drawn from
    N(0, 1), and `similarity_right` (M, r), which start at 0."""

    owned: ClassVar[frozenset[str]] = frozenset({DIAGONAL, LEFT, RIGHT})
    kind: Literal["low_rank"] = "low_rank"
    rank: Positive = Field(10, description="r: a pair has 2 r + 1 numbers.")
    alpha: Rate = Field(1.0, description="Scale of the low-rank part, over the rank.")
    lr: OuterRate = Field(0.05, description="Outer learning rate of a, L and R; 0 keeps the identity.")

    def learned_rows(self, numbers: range, total: int) -> dict[str, Learned]:
        starts = {
            DIAGONAL: torch.ones(len(numbers)),
            LEFT: torch.stack([_drawn(self.rank, number) for number in numbers]),
            RIGHT: torch.zeros(len(numbers), self.rank),
        }
        return {name: Learned(start, self.lr) for name, start in starts.items()}

    def matrix(self, rows: Mapping[str, Tensor]) -> Tensor:
        return rows[DIAGONAL].diag() + (self.alpha / self.rank) * rows[LEFT] @ rows[RIGHT].T


def _drawn(rank: int, number: int) -> Tensor:
    return torch.randn(rank, generator=torch.Generator().manual_seed(derive_seed(LEFT, number)))


class FullSimilarity(Similarity):
    """Every number of S: rows `similarity` (M, M), and `number` (M,) int64, by which a minibatch finds its columns."""

    owned: ClassVar[frozenset[str]] = frozenset({FULL, NUMBER})
    kind: Literal["full"] = "full"
    lr: OuterRate = Field(0.01, description="Outer learning rate of S; 0 keeps the identity.")

    def learned_rows(self, numbers: range, total: int) -> dict[str, Learned]:
        places = torch.tensor(numbers, dtype=torch.int64)
        start = (places[:, None] == torch.arange(total)).float()
        return {FULL: Learned(start, self.lr), NUMBER: Learned(places, 0)}

    def check_rows(self, rows: Mapping[str, Tensor], total: int) -> None:
        if not torch.equal(rows[NUMBER].sort().values, torch.arange(total)):
            raise ValueError(f"{NUMBER!r} must hold each of 0 to {total - 1} once: they are columns of {FULL!r}")

    def joined_rows(self, parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Of pairs of two sets S is 0, and is not read."""
        whole = torch.block_diag(*(part[FULL] for part in parts))
        return {FULL: whole, NUMBER: torch.arange(len(whole), device=whole.device)}

    def matrix(self, rows: Mapping[str, Tensor]) -> Tensor:
        return rows[FULL][:, rows[NUMBER]]


KINDS: dict[str, type[Similarity]] = {"none": NoSimilarity, "low_rank": LowRankSimilarity, "full": FullSimilarity}


def chosen_similarity(given: Any) -> Any:
    """A kind alone is one with its defaults; a mapping without a kind is of low rank.

    Raises:
        ValueError: there is no such kind, or its settings are wrong.
    """
    if isinstance(given, Similarity):
        return given
    settings = {"kind": given} if isinstance(given, str) else given
    if not isinstance(settings, dict):
        raise ValueError("expected a kind of similarity, or a mapping with `kind` and its settings")
    kind = settings.get("kind", "low_rank")
    if not (isinstance(kind, str) and kind in KINDS):
        raise ValueError(f"{str(kind)[:80]!r} is no kind of similarity: choose from {', '.join(KINDS)}")
    return KINDS[kind].model_validate(settings)


AnySimilarity = Annotated[NoSimilarity | LowRankSimilarity | FullSimilarity, BeforeValidator(chosen_similarity)]
