"""The inner batches of an outer step on several ranks: rows are fetched from the ranks that own them, and gradients sent
back."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vldd_dist.distillation.context import DistillationContext
from vldd_dist.distillation.pairs import SyntheticPairs
from vldd_dist.distillation.unroll import Tensors, scatter_to_pairs
from vldd_dist.models.image.frozen_backbone import FrozenBackbone
from vldd_dist.sharding.exchange import Exchange
from vldd_dist.sharding.ranks import Ranks, rows_of


@dataclass(frozen=True)
class RankRows:
    """A rank's rows of the inner minibatches.

    Attributes:
        used: (U,) int64, ascending: the pairs that are in any of these minibatches.
        places: for each inner step its pairs (b,), as indices into `used`.
    """

    used: Tensor
    places: list[Tensor]


def rank_rows(batches: Sequence[Tensor], rank: int, world_size: int) -> RankRows:
    """A rank's rows: an equal, contiguous slice of each minibatch. Minibatches are ascending and each rank owns a contiguous
    range of the pairs, so most pairs are computed on the rank that owns them."""
    slices = [batch[slice(*rows_of(rank, world_size, len(batch)))] for batch in batches]
    used = torch.unique(torch.cat(slices))
    return RankRows(used, [torch.searchsorted(used, rows) for rows in slices])


class ImageInputs:
    """Turns the images of pairs into what a batch needs of them.

    Args:
        backbone: the frozen backbone of the student; None: the student takes the images themselves.
        moves: whether the backbone's weights change between outer steps.
    """

    def __init__(self, backbone: FrozenBackbone | None, *, moves: bool = False) -> None:
        self.frozen_backbone, self.moves = backbone, moves
        self._features: Tensor | None = None

    def exchange(
        self, context: DistillationContext, pairs: SyntheticPairs, batches: Sequence[Tensor], *, keep_graphs: bool = True
    ) -> "BatchExchange":
        """The exchange of an outer step.

        Args:
            pairs: this rank's rows of the pairs.
            batches: for each inner step the indices (B,) of its pairs.
            keep_graphs: whether graphs of the backbone are kept for `BatchExchange.gradients`, up to `tower_graph_mib`.
        """
        pairs, backbone = self._pairs_and_backbone(pairs)
        graph_limit = context.settings.tower_graph_mib << 20 if keep_graphs else 0
        return BatchExchange(context.ranks, backbone, pairs, context.total, batches, graph_limit)

    def _pairs_and_backbone(self, pairs: SyntheticPairs) -> tuple[SyntheticPairs, FrozenBackbone | None]:
        """The pairs as `BatchExchange` takes them, and the backbone that their images still have to pass through, if any. The
        features of fixed images (this rank's rows) replace the images; they are computed once, unless the backbone's weights
        change."""
        if self.frozen_backbone is None or "images" not in pairs.fixed:
            return pairs, self.frozen_backbone
        if self._features is None or self.moves:
            self._features = self.frozen_backbone.features(pairs.images)
        return pairs.with_inputs(self._features), None


class BatchExchange:
    """One rank's rows of the inner batches, and the way back from their gradients to those of the pairs, which is used once.

    Args:
        backbone: the frozen backbone that the images have to pass through; None if `pairs` already holds model inputs.
        pairs: this rank's rows of the `total` pairs.
        batches: for each inner step the indices (B,) of its pairs, distinct and ascending.
        graph_limit: bytes of the backbone's autograd graphs that may be kept until `gradients`.

    Attributes:
        batches: for each inner step the model inputs (b, ...) of its images, its texts (b, D) and the loss's row tensors
            (b, ...), in the order of `pairs.rows`.
        fixed: positions in a batch of the tensors that are not learned.
    """

    def __init__(
        self,
        ranks: Ranks,
        backbone: FrozenBackbone | None,
        pairs: SyntheticPairs,
        total: int,
        batches: Sequence[Tensor],
        graph_limit: int,
    ) -> None:
        self.ranks, self.total = ranks, total
        # By rank, the rows of the batches that it computes.
        self.computed = [rank_rows(batches, rank, ranks.world_size) for rank in range(ranks.world_size)]
        self.own = self.computed[ranks.rank]
        exchange = Exchange(ranks, total, [rows.used for rows in self.computed])
        used = {name: exchange.to_users(rows) for name, rows in pairs.rows.items()}
        self.fixed = frozenset(place for place, name in enumerate(used) if name in pairs.fixed)
        self.learned = list(pairs.learned(used))
        # With a frozen backbone, the features of each used pair are computed once for an outer step.
        self.encoded = backbone.features_with_graph(used["images"], graph_limit) if backbone else None
        if self.encoded:
            used["images"] = self.encoded.features
        self.batches: list[Tensors] = [[rows[places] for rows in used.values()] for places in self.own.places]

    def gradients(self, batches: Sequence[Tensors]) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum the gradients of the batches into gradients of the pairs, on the ranks that own them.

        Args:
            batches: for each inner step, or for the last ones, the gradients of the learned tensors of its batch.

        Returns:
            The indices (K,) of this rank's pairs in these batches, and by name the gradients (K, ...) of their tensors.
        """
        # Pairs that are only in steps before them have no gradient.
        places = [torch.unique(torch.cat(rows.places[-len(batches) :])) for rows in self.computed]
        exchange = Exchange(self.ranks, self.total, [rows.used[of] for rows, of in zip(self.computed, places, strict=True)])
        own = places[self.ranks.rank]
        sums = scatter_to_pairs(batches, self.own.places[-len(batches) :], len(self.own.used))
        used_gradients = dict(zip(self.learned, sums, strict=True))
        if self.encoded:
            used_gradients["images"] = self.encoded.pixel_gradients(used_gradients["images"])
        owned = {name: exchange.to_owners(gradient[own.to(gradient.device)]) for name, gradient in used_gradients.items()}
        rows, _ = owned[self.learned[0]]
        return rows, {name: gradient for name, (_, gradient) in owned.items()}
