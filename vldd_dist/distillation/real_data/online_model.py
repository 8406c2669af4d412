"""A model that is trained on real pairs while the synthetic pairs are learned (CovMatch, Lee et al. 2510.18583)."""

import torch

from vldd_dist.distillation.context import DistillationContext
from vldd_dist.distillation.real_data.step_batches import StepBatches
from vldd_dist.models.fresh_weights import FreshWeights
from vldd_dist.models.parameters import ParameterView
from vldd_dist.seeding import derive_seed
from vldd_dist.sharding.engines.replicas import Replicas


class OnlineModel:
    """Brings the context's model to the state of an outer step. At a reset it gets its starting weights, with
    `FreshWeights`. After each outer step it takes one SGD step of the contrastive loss, without dropout, on the real batch of
    that outer step.

    The state depends only on (seed, step): a resumed distillation repeats the steps since the last reset.

    Args:
        lr_encoder: learning rate of the trained parameters of the image backbone.
        lr_heads: learning rate of the heads.
        reset_every: outer steps between resets.
    """

    def __init__(
        self, context: DistillationContext, real: StepBatches, *, lr_encoder: float, lr_heads: float, reset_every: int
    ) -> None:
        self.context, self.real, self.reset_every, self.model = context, real, reset_every, context.model
        self.seed = context.derived_seed("heads")
        view = ParameterView(self.model)
        self._view, self._start, self._fresh = view, view.read(), FreshWeights(self.model)
        encoder = [p for name, p in zip(view.names, view.parameters, strict=True) if name.startswith("image_backbone.")]
        heads = [p for name, p in zip(view.names, view.parameters, strict=True) if not name.startswith("image_backbone.")]
        groups = [
            {"params": parameters, "lr": lr} for parameters, lr in ((encoder, lr_encoder), (heads, lr_heads)) if parameters
        ]
        self._trained = Replicas(self.model, torch.optim.SGD(groups), context.ranks)
        # The outer step whose weights the model has; -1 before the first reset.
        self._step = -1

    def bring_to(self, step: int) -> None:
        """Give the model the weights of this outer step."""
        first = step - step % self.reset_every
        if not first <= self._step <= step:
            self._reset(first)
        while self._step < step:
            self._train()

    def _reset(self, step: int) -> None:
        drawn = self._fresh.draw(derive_seed(self.seed, step))
        self._view.write([drawn.get(name, start) for name, start in zip(self._view.names, self._start, strict=True)])
        self._step = step

    def _train(self) -> None:
        rows, ranks = self.real.rows(self._step), self.context.ranks
        self.model.gather_rows = ranks.rows_gatherer(rows.total)
        loss = self.context.loss(*self.model(rows.inputs, rows.texts)) / ranks.world_size
        self._trained.step(loss)
        self._step += 1
