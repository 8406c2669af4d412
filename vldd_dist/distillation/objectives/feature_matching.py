"""What objectives have in common that compare features of synthetic and of real pairs, and unroll no student."""

from abc import abstractmethod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vldd_dist.distillation.context import RunContext
from vldd_dist.distillation.objectives.base import Objective, OuterGradient, OuterProblem, PassCosts
from vldd_dist.distillation.pairs import SyntheticPairs
from vldd_dist.distillation.sampling import part_of
from vldd_dist.distillation.student.exchange import BatchExchange, ImageInputs
from vldd_dist.models.image.frozen_tower import FrozenTower

if TYPE_CHECKING:
    from vldd_dist.config.experiment import Experiment
    from vldd_dist.config.sections.distillation import DistillSettings


class FeatureMatching(Objective):
    """Settings of such an objective."""

    def problems(self, experiment: "Experiment") -> list[str]:
        loss, found = experiment.model.loss, []
        if learned := [*loss.learned_rows(range(1), 1), *loss.learned_shared()]:
            found.append(f"model.loss: {learned[0]} cannot be learned by distill.objective: {self.name}, without a student")
        if experiment.distill.sharding != "none":
            found.append(f"distill.sharding shards a student, and distill.objective: {self.name} has none: set none")
        return found

    def step_flops(self, costs: PassCosts, settings: "DistillSettings", pairs: int) -> float:
        """As `Objective.step_flops` says: synthetic images through the tower and back to their pixels; real images through it
        where their features are not given; a training step on real pairs where the model takes one. Heads are not counted."""
        moves = self.trains_model() and not costs.frozen_backbone
        # The features of images that keep their start are computed once where the tower keeps its weights.
        of_fixed = costs.encoding if moves else 0
        synthetic = of_fixed if "images" in settings.fixed() else costs.pixels
        real = (0 if costs.has_features else costs.encoding) + (costs.training if self.trains_model() else 0)
        return self.used_pairs(pairs) * synthetic + self.real_rows() * real


class FeatureProblem(OuterProblem):
    """Synthetic pairs against real ones at every step. Each rank encodes an equal part of the pairs; the features of all are
    gathered, and each rank takes 1/world of the loss as its part.

    Args:
        follow: the model's weights change between outer steps.
    """

    def __init__(self, context: RunContext, *, follow: bool) -> None:
        self.context, self.model = context, context.model.eval()
        self.moves = follow and not self.model.frozen_backbone
        self.model.bf16_backbone = context.settings.precision == "bf16"
        self.tower = FrozenTower(self.model.image_backbone, bf16=self.model.bf16_backbone, follow=self.moves)
        self.inputs = ImageInputs(self.tower, moves=self.moves)

    @abstractmethod
    def terms(self, step: int, features: Tensor, texts: Tensor) -> dict[str, Tensor]:
        """The loss's terms of this outer step, by name, scalars.

        Args:
            features: (B, F), the backbone's of the drawn pairs' images.
            texts: (B, D), their embeddings.
        """

    def prepare(self, step: int) -> None:
        """Give the model the weights of this outer step."""

    def drawn(self, step: int) -> Tensor:
        """(B,) int64, distinct, ascending: the pairs that take part."""
        return torch.arange(self.context.total)

    def gradient(self, step: int, pairs: SyntheticPairs) -> OuterGradient:
        ranks, drawn = self.context.ranks, self.drawn(step)
        self.prepare(step)
        exchange = self._exchange(pairs, drawn)
        batch = [tensor.detach() for tensor in exchange.batches[0]]
        leaves = [tensor.requires_grad_() for place, tensor in enumerate(batch) if place not in exchange.fixed]
        gather_rows = ranks.rows_gatherer(len(drawn))
        terms = self.terms(step, gather_rows(batch[0]), gather_rows(batch[1]))
        loss = torch.stack(list(terms.values())).sum() / ranks.world_size
        rows, row_gradients = exchange.gradients([torch.autograd.grad(loss, leaves)])
        return OuterGradient({name: term.item() for name, term in terms.items()}, rows, row_gradients, {})

    def _exchange(self, pairs: SyntheticPairs, drawn: Tensor) -> BatchExchange:
        ranks, settings = self.context.ranks, self.context.settings
        parts = [part_of([drawn], rank, ranks.world_size) for rank in range(ranks.world_size)]
        pairs, tower = self.inputs.of(pairs)
        return BatchExchange(ranks, tower, pairs, self.context.total, parts, settings.tower_graph_mib << 20)
