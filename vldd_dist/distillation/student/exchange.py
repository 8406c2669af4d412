"""The inner batches of an outer step on several ranks: rows come from their owners, and their gradients go back."""

from collections.abc import Sequence

from torch import Tensor

from vldd_dist.distillation.pairs import SyntheticPairs
from vldd_dist.distillation.sampling import Part
from vldd_dist.distillation.unroll import Params, scatter_to_pairs
from vldd_dist.models.image.frozen_tower import FrozenTower
from vldd_dist.sharding.exchange import Exchange
from vldd_dist.sharding.ranks import Ranks


class ImageInputs:
    """What the images of pairs enter a batch as.

    Args:
        tower: of a student with a frozen backbone; none: images enter as they are.
        moves: its weights change between outer steps.
    """

    def __init__(self, tower: FrozenTower | None, *, moves: bool = False) -> None:
        self.tower, self.moves = tower, moves
        self._features: Tensor | None = None

    def of(self, pairs: SyntheticPairs) -> tuple[SyntheticPairs, FrozenTower | None]:
        """The pairs as `BatchExchange` takes them, and the tower that their images still have to pass. Of images that keep
        their start, this rank's rows, the features are made once."""
        if self.tower is None or "images" not in pairs.fixed:
            return pairs, self.tower
        if self._features is None or self.moves:
            self._features = self.tower.features(pairs.images)
        return pairs.with_inputs(self._features), None


class BatchExchange:
    """One rank's rows of the inner batches, and the way back from them, to be gone once.

    Args:
        tower: of a student with a frozen backbone; none where `pairs` has its features in place of the images.
        pairs: this rank's rows of the `total`.
        parts: of the draw, by rank.
        graph_limit: bytes of the tower's graphs to keep until `gradients`.

    Attributes:
        batches: for each inner step the model inputs (b, ...) of its images, its texts (b, D), and what the loss adds to the
            rows, in the order of `pairs.rows`.
        fixed: places in a batch of what is not learned.
    """

    def __init__(
        self,
        ranks: Ranks,
        tower: FrozenTower | None,
        pairs: SyntheticPairs,
        total: int,
        parts: Sequence[Part],
        graph_limit: int,
    ) -> None:
        self.part = parts[ranks.rank]
        self.exchange = Exchange(ranks, total, [part.used for part in parts])
        used = {name: self.exchange.to_users(rows) for name, rows in pairs.rows.items()}
        self.fixed = frozenset(place for place, name in enumerate(used) if name in pairs.fixed)
        self.learned = list(pairs.learned(used))
        # A frozen backbone's features, made once for a pair and outer step; with a backbone that moves the images themselves.
        self.encoded = tower.features_with_graph(used["images"], graph_limit) if tower else None
        if self.encoded:
            used["images"] = self.encoded.features
        self.batches: list[Params] = [[rows[places] for rows in used.values()] for places in self.part.places]

    def gradients(self, batches: Sequence[Params]) -> tuple[Tensor, dict[str, Tensor]]:
        """From the gradients of what is learned of the batches, or of the last ones, to those of the pairs.

        Returns:
            Rows (K,) of this rank's pairs, and by name the gradients (K, ...) of their tensors.
        """
        sums = scatter_to_pairs(batches, self.part.places[-len(batches) :], len(self.part.used))
        of_rows = dict(zip(self.learned, sums, strict=True))
        if self.encoded:
            of_rows["images"] = self.encoded.pixel_gradients(of_rows["images"])
        owned = {name: self.exchange.to_owners(gradient) for name, gradient in of_rows.items()}
        rows, _ = owned[self.learned[0]]
        return rows, {name: gradient for name, (_, gradient) in owned.items()}
