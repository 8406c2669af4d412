"""The common part of the objectives that compare features of synthetic and real pairs, without a student."""

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from vldd_dist.distillation.batch_exchange import ImageInputs
from vldd_dist.distillation.context import DistillationContext
from vldd_dist.distillation.objectives.base import Objective
from vldd_dist.distillation.objectives.costs import ObjectiveCosts, PassCosts
from vldd_dist.distillation.objectives.outer_problem import OuterGradient, OuterProblem
from vldd_dist.distillation.pairs import SyntheticPairs
from vldd_dist.models.image.frozen_backbone import FrozenBackbone

if TYPE_CHECKING:
    from vldd_dist.config.experiment import Experiment
    from vldd_dist.config.sections.distillation import DistillationSettings


class FeatureMatching(Objective):
    """An objective that compares features of synthetic and real pairs, without a student."""

    def conflicts(self, experiment: "Experiment") -> list[str]:
        loss = experiment.model.loss
        conflicts = []
        if learned := loss.learned_names():
            conflicts.append(
                f"model.loss: {learned[0]} cannot be learned by distill.objective: {self.name}, which works without a student: "
                "choose another of either"
            )
        if experiment.distill.sharding != "none":
            conflicts.append(f"distill.sharding shards a student, and distill.objective: {self.name} has none: set none")
        return conflicts

    def costs(self) -> "FeatureCosts[Any]":
        return FeatureCosts(self)


SomeMatching = TypeVar("SomeMatching", bound=FeatureMatching)


class FeatureCosts(ObjectiveCosts[SomeMatching]):
    """The costs of an objective that compares features of synthetic and real pairs."""

    def step_flops(self, passes: PassCosts, settings: "DistillationSettings", pairs: int) -> float:
        """See `ObjectiveCosts.step_flops`. Counts the passes of the synthetic images through the backbone and back to their
        pixels, those of the real images through the backbone (unless their features are given) and the model's training step,
        but no heads."""
        objective = self.objective
        # Of fixed images, the features are computed once, unless the backbone's weights change.
        fixed_images = passes.encoding if objective.moves_backbone(passes.freezes_backbone) else 0
        synthetic = fixed_images if "images" in settings.fixed() else passes.pixels
        real = (0 if passes.has_features else passes.encoding) + (passes.training if objective.trains_model() else 0)
        return objective.used_pairs(pairs) * synthetic + self.real_rows() * real


class FeatureProblem(OuterProblem):
    """Compares synthetic with real pairs at each outer step. Each rank encodes an equal part of the synthetic pairs; the
    features of all of them are gathered, and each rank differentiates 1/world_size of the same loss."""

    def __init__(self, context: DistillationContext) -> None:
        self.context, self.model = context, context.model.eval()
        moves = context.settings.objective.moves_backbone(self.model.freezes_backbone)
        self.model.bf16_backbone = context.settings.precision == "bf16"
        self.frozen_backbone = FrozenBackbone(self.model.image_backbone, bf16=self.model.bf16_backbone, moves=moves)
        self.inputs = ImageInputs(self.frozen_backbone, moves=moves)

    @abstractmethod
    def terms(self, step: int, features: Tensor, texts: Tensor) -> dict[str, Tensor]:
        """The terms of the outer loss at this step: scalars by name.

        Args:
            features: (B, F) backbone features of the images of the drawn pairs.
            texts: (B, D) their text embeddings.
        """

    def prepare(self, step: int) -> None:
        """Set the model's weights for this outer step. The objective's `moves_model` must then be true: the backbone is
        otherwise prepared once, with the weights of the start."""

    def drawn(self, step: int) -> Tensor:
        """(B,) int64 indices of the pairs that take part, distinct and ascending; all of them unless a subclass draws some."""
        return torch.arange(self.context.total)

    def gradient(self, step: int, pairs: SyntheticPairs) -> OuterGradient:
        ranks, drawn = self.context.ranks, self.drawn(step)
        self.prepare(step)
        exchange = self.inputs.exchange(self.context, pairs, [drawn])
        batch = [tensor.detach() for tensor in exchange.batches[0]]
        leaves = [tensor.requires_grad_() for place, tensor in enumerate(batch) if place not in exchange.fixed]
        gather_rows = ranks.rows_gatherer(len(drawn))
        terms = self.terms(step, gather_rows(batch[0]), gather_rows(batch[1]))
        loss = torch.stack(list(terms.values())).sum() / ranks.world_size
        rows, row_gradients = exchange.gradients([torch.autograd.grad(loss, leaves)])
        return OuterGradient({name: term.item() for name, term in terms.items()}, rows, row_gradients, {})
