"""The real pairs that an objective compares with the synthetic ones at an outer step."""

from dataclasses import replace

import torch
from torch import Tensor

from vldd_dist.distillation.context import DistillationContext
from vldd_dist.distillation.real_data.real_rows import RealRows
from vldd_dist.models.image.frozen_backbone import FrozenBackbone


class StepBatches:
    """A batch of real pairs for each outer step. It depends only on (seed, step), not on the number of ranks.

    Args:
        backbone: the model's frozen backbone; None if the backbone is trained, so that the model takes images.
        batch_size: B, over all ranks.
    """

    def __init__(self, context: DistillationContext, backbone: FrozenBackbone | None, batch_size: int) -> None:
        # Imported here so that this module can be imported without the libraries that read shards.
        from vldd_dist.data.prepared.batches.real_batches import RealBatches

        self.context, self.frozen_backbone = context, backbone
        seed = context.derived_seed("real")
        images = context.image_features or context.dataset
        self._batches = RealBatches(context.embeddings, images, batch_size, seed, context.ranks.rows_to_compute)
        # The step read last, and what was read.
        self._step: int | None = None
        self._kept: RealRows

    def rows(self, step: int) -> RealRows:
        """This rank's rows of the batch."""
        read = self._read(step)
        return replace(read, inputs=self._features(read.inputs)) if self.context.model.freezes_backbone else read

    @torch.no_grad()
    def all_rows(self, step: int) -> tuple[Tensor, Tensor]:
        """Backbone features (B, F) and caption embeddings (B, D) of the whole batch."""
        read = self._read(step)
        gather_rows = self.context.ranks.rows_gatherer(read.total)
        return gather_rows(self._features(read.inputs)), gather_rows(read.texts)

    def _read(self, step: int) -> RealRows:
        """This rank's rows; their inputs are normalised images (b, 3, H, W), or features (b, F) if those of a frozen backbone
        are stored. What was read last is kept, so that it can be asked for again."""
        if step != self._step:
            batch, device = self._batches[step], self.context.device
            images, texts = batch.images.to(device), batch.texts.to(device)
            images = images if self._has_features else self.context.model.normalise(images)
            self._step, self._kept = step, RealRows(images, texts, len(batch.entries))
        return self._kept

    def _features(self, images: Tensor) -> Tensor:
        if self._has_features:
            return images
        assert self.frozen_backbone is not None
        return self.frozen_backbone.features(images)

    @property
    def _has_features(self) -> bool:
        return self.context.image_features is not None
