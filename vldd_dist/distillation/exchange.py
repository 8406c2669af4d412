"""The inner batches of an outer step on several ranks: rows come from their owners, and their gradients go back."""

from collections.abc import Sequence

from torch import Tensor

from vldd_dist.distillation.pairs import SyntheticPairs
from vldd_dist.distillation.sampling import Part
from vldd_dist.distillation.unroll import Params, scatter_to_pairs
from vldd_dist.models.dual_encoder import DualEncoder
from vldd_dist.models.inputs import model_inputs, pixel_gradients
from vldd_dist.sharding.exchange import Exchange
from vldd_dist.sharding.ranks import Ranks


class BatchExchange:
    """One rank's rows of the inner batches.

    Args:
        pairs: this rank's rows of the `total`.
        parts: of the draw, by rank.

    Attributes:
        batches: for each inner step the model inputs (b, ...) of its images, its texts (b, D), and what the loss adds to the
            rows, in the order of `pairs.rows`.
    """

    def __init__(self, ranks: Ranks, model: DualEncoder, pairs: SyntheticPairs, total: int, parts: Sequence[Part]) -> None:
        self.model, self.part, self.names = model, parts[ranks.rank], list(pairs.rows)
        self.exchange = Exchange(ranks, total, [part.used for part in parts])
        used = [self.exchange.to_users(pairs.rows[name]) for name in self.names]
        self.images = used[self.names.index("images")]
        # A frozen backbone's features, made once for a pair and outer step; with a backbone that moves the images themselves.
        inputs = [model_inputs(model, rows) if rows is self.images else rows for rows in used]
        self.batches: list[Params] = [[rows[places] for rows in inputs] for places in self.part.places]

    def gradients(self, batches: Sequence[Params]) -> tuple[Tensor, dict[str, Tensor]]:
        """From the gradients of the batches to those of the pairs.

        Returns:
            Rows (K,) of this rank's pairs, and by name the gradients (K, ...) of their tensors.
        """
        of_rows = dict(zip(self.names, scatter_to_pairs(batches, self.part.places, len(self.part.used)), strict=True))
        of_rows["images"] = pixel_gradients(self.model, self.images, of_rows["images"])
        sums = {name: self.exchange.to_owners(gradient) for name, gradient in of_rows.items()}
        return sums["images"][0], {name: gradient for name, (_, gradient) in sums.items()}
