"""Distribution matching (MDM, 2605.23482): match the distributions of synthetic and real pairs in the feature space of
teachers, both for the sum of the image and text features (what they have in common) and for their difference."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, ClassVar

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor
from torch.nn import functional

from vldd_dist.config.base import PairCount, Positive
from vldd_dist.distillation.clipping import clipped
from vldd_dist.distillation.context import DistillationContext
from vldd_dist.distillation.objectives.feature_matching import FeatureCosts, FeatureMatching, FeatureProblem
from vldd_dist.distillation.objectives.outer_problem import OuterGradient, OuterProblem
from vldd_dist.distillation.pairs import SyntheticPairs
from vldd_dist.distillation.real_data.mean_discrepancy import mean_discrepancy
from vldd_dist.distillation.real_data.merged_teacher import merged_teacher
from vldd_dist.distillation.real_data.step_batches import StepBatches
from vldd_dist.models.parameters import TOWERS, ParameterView
from vldd_dist.seeding import numpy_generator

if TYPE_CHECKING:
    from vldd_dist.config.experiment import Experiment


class DistributionMatching(FeatureMatching):
    """The outer loss is model.loss of the synthetic pairs, plus the weighted maximum mean discrepancies between synthetic and
    real pairs of v + t and of v - t, where v and t are the teacher's joint features. v, t, their sum and their difference are
    scaled to norm one. Each outer step draws a teacher: an expert, and two of its epochs, whose states are merged."""

    needs: ClassVar[frozenset[str]] = frozenset({"experts", "real_batches"})
    name: str = "distribution_matching"
    real_batch_size: Positive = Field(256, description="Real pairs of an outer step.")
    pairs_per_step: PairCount = Field(64, description="Synthetic pairs of an outer step, drawn at random; at most all M.")
    last_epoch: Annotated[int, Field(ge=2)] = Field(
        5, description="A teacher merges the states of an expert after two epochs, drawn from 1 to last_epoch."
    )
    sum_weight: NonNegativeFloat = Field(0.8, description="Weight of the discrepancy of v + t.")
    difference_weight: NonNegativeFloat = Field(0.8, description="Weight of the discrepancy of v - t.")
    width: PositiveFloat = Field(0.5, description="Width of the kernel exp(-angle^2 / (2 width^2)), in radians.")
    clip: PositiveFloat | None = Field(1.0, description="The gradient of all pairs is clipped to this norm; null: not clipped.")

    def conflicts(self, experiment: "Experiment") -> list[str]:
        conflicts = super().conflicts(experiment)
        epochs = experiment.experts.epochs
        if self.last_epoch > epochs:
            conflicts.append(
                f"distill.objective.last_epoch ({self.last_epoch}) is more than experts.epochs ({epochs}): lower it, or train "
                "longer"
            )
        if (workers := experiment.distill.workers) > self.pairs_per_step:
            conflicts.append(
                f"distill.workers ({workers}) is more than distill.objective.pairs_per_step ({self.pairs_per_step}): lower it"
            )
        return conflicts

    def moves_model(self) -> bool:
        return True

    def used_pairs(self, pairs: int) -> int:
        return min(self.pairs_per_step, pairs)

    def reached_epochs(self) -> frozenset[int]:
        return frozenset(range(self.last_epoch + 1))

    @contextmanager
    def open(self, context: DistillationContext) -> Iterator[OuterProblem]:
        yield DistributionProblem(self, context)

    def costs(self) -> "DistributionCosts":
        return DistributionCosts(self)


class DistributionCosts(FeatureCosts[DistributionMatching]):
    """The costs of `DistributionMatching`."""

    def real_rows(self) -> int:
        return self.objective.real_batch_size

    def snapshots_read(self, experts: int, outer_steps: int) -> int:
        return min(experts * len(self.objective.reached_epochs()), self.snapshots_drawn(experts, outer_steps))

    def snapshots_drawn(self, experts: int, outer_steps: int) -> int:
        return 3 * outer_steps


class DistributionProblem(FeatureProblem):
    """Each outer step draws synthetic pairs, a real minibatch and a teacher, whose weights it writes into the model."""

    def __init__(self, settings: DistributionMatching, context: DistillationContext) -> None:
        super().__init__(context)
        self.settings, self.experts = settings, context.open_experts(None)
        self.real = StepBatches(context, self.frozen_backbone, settings.real_batch_size)
        self.seed = context.derived_seed()
        self.view = ParameterView(self.model)
        # The loss is differentiated with respect to the pairs only.
        self.model.requires_grad_(False)

    def drawn(self, step: int) -> Tensor:
        permutation = numpy_generator(self.seed, "pairs", step).permutation(self.context.total)
        return torch.from_numpy(permutation)[: self.settings.used_pairs(self.context.total)].sort().values

    def teacher(self, step: int) -> tuple[int, int, int]:
        """The teacher of an outer step: an expert, and the two of its epochs to merge."""
        generator = numpy_generator(self.seed, "teacher", step)
        expert = int(generator.integers(self.experts.count))
        first, second = generator.choice(self.settings.last_epoch, 2, replace=False)
        return expert, int(first) + 1, int(second) + 1

    def prefetch(self, step: int) -> None:
        expert, *epochs = self.teacher(step)
        for epoch in (0, *epochs):
            self.experts[expert].prefetch(epoch, TOWERS)

    def prepare(self, step: int) -> None:
        expert, *epochs = self.teacher(step)
        trajectory = self.experts[expert]
        states = [self.view.from_dicts(*(trajectory.snapshot(epoch, tower) for tower in TOWERS)) for epoch in (0, *epochs)]
        # One parameter at a time, so that the device holds neither the three states nor another copy of the teacher.
        device = self.context.device
        self.view.write(merged_teacher(*(one.to(device) for one in tensors)) for tensors in zip(*states, strict=True))

    def gradient(self, step: int, pairs: SyntheticPairs) -> OuterGradient:
        gradient = super().gradient(step, pairs)
        if self.settings.clip is None:
            return gradient
        return gradient._replace(row_gradients=clipped(gradient.row_gradients, self.settings.clip, self.context.ranks))

    def terms(self, step: int, features: Tensor, texts: Tensor) -> dict[str, Tensor]:
        settings = self.settings
        (v, t), (real_v, real_t) = self._joint(features, texts), self._joint(*self.real.all_rows(step))
        return {
            "pairs": self.context.loss(v, t),
            "sums": settings.sum_weight * self._discrepancy(v + t, real_v + real_t),
            "differences": settings.difference_weight * self._discrepancy(v - t, real_v - real_t),
        }

    def _discrepancy(self, a: Tensor, b: Tensor) -> Tensor:
        return mean_discrepancy(functional.normalize(a), functional.normalize(b), self.settings.width)

    def _joint(self, features: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
        """The joint features of images and texts, (B, d) each, of norm one."""
        return functional.normalize(self.model.image_head(features)), functional.normalize(self.model.text_head(texts))
