"""What objectives that compare synthetic pairs with real ones read of the real ones at an outer step."""

import torch
from torch import Tensor

from vldd_dist.distillation.context import RunContext
from vldd_dist.models.image.frozen_tower import FrozenTower
from vldd_dist.seeding import derive_seed


class RealFeatures:
    """Batches of real pairs by the number of the outer step: a function of (seed, step), on any number of ranks.

    Args:
        tower: of the model; none where its backbone is not frozen, and images are its inputs.
        batch_size: B, over all ranks.
    """

    def __init__(self, context: RunContext, tower: FrozenTower | None, batch_size: int) -> None:
        # Here, so that this module loads without the libraries that read shards.
        from vldd_dist.data.prepared.real_batches import RealBatches

        self.context, self.tower = context, tower
        seed = derive_seed(context.seed, "distillation", context.total, "real")
        self._batches = RealBatches(context.embeddings, context.image_features, batch_size, seed, context.ranks.rows_to_compute)
        # The last step and what was read for it.
        self._last: tuple[int, tuple[Tensor, Tensor, int]] | None = None

    def read(self, step: int) -> tuple[Tensor, Tensor, int]:
        """Of this rank's rows (b, ...) the normalised images or, where a frozen backbone's are kept, their features (b, F); the
        captions' embeddings (b, D); and B. Steps in order are read once, and the last one may be asked for again."""
        if self._last is None or step != self._last[0]:
            batch, device = self._batches[step], self.context.device
            images, texts = batch.images.to(device), batch.texts.to(device)
            images = images if self._has_features else self.context.model.normalise(images)
            self._last = step, (images, texts, len(batch.entries))
        return self._last[1]

    def inputs(self, step: int) -> tuple[Tensor, Tensor, int]:
        """The same, with model inputs in place of the images."""
        images, texts, size = self.read(step)
        if self.context.model.frozen_backbone:
            images = self._features(images)
        return images, texts, size

    @torch.no_grad()
    def all_rows(self, step: int) -> tuple[Tensor, Tensor]:
        """Backbone features (B, F) and embeddings (B, D) of all ranks' rows."""
        images, texts, size = self.read(step)
        gather_rows = self.context.ranks.rows_gatherer(size)
        return gather_rows(self._features(images)), gather_rows(texts)

    def _features(self, images: Tensor) -> Tensor:
        if self._has_features:
            return images
        assert self.tower is not None
        return self.tower.features(images)

    @property
    def _has_features(self) -> bool:
        return self.context.image_features is not None
