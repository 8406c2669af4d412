"""What a run of an application would compute, for a plan: the trainings and measurements of `Students`, counted in
floating-point operations. Losses, clusters and selections of coresets are not counted, because they are small beside these."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from vldd_dist.config.sections.evaluation import EvaluationProtocol
from vldd_dist.config.sections.model import ModelSettings
from vldd_dist.distillation.objectives.costs import PassCosts
from vldd_dist.retrieval.costs import EncodingCosts, measuring_flops


class StudentCosts(PassCosts, EncodingCosts, Protocol):
    """Floating-point operations of the passes of a student on features."""


@dataclass(frozen=True)
class Planned:
    """The sizes of the inputs of a run, and what its students cost.

    Attributes:
        train, validation, test: numbers of images of the splits.
        captions_per_image: mean number of captions of an image.
        count: M, the number of distilled pairs; 0 if the application needs none.
        seeds: number of seeds of the students.
        seed: seed of the draws that are the same for all `seeds`.
        model: the model's settings.
        protocol: the protocol for training on pairs.
        pair_dim: F + D, the numbers of a pair's features and embedding.
        costs_of: a student's costs by its model.
    """

    train: int
    validation: int
    test: int
    captions_per_image: float
    count: int
    seeds: int
    seed: int
    model: ModelSettings
    protocol: EvaluationProtocol
    pair_dim: int
    costs_of: Callable[[ModelSettings], StudentCosts]

    @property
    def costs(self) -> StudentCosts:
        return self.costs_of(self.model)

    @property
    def rates(self) -> int:
        """The number of learning rates, with each of which a student is trained."""
        return len(self.protocol.learning_rates)

    def with_model(self, model: ModelSettings) -> "Planned":
        return replace(self, model=model)

    def passes(self, pairs: float) -> float:
        """Passes of this many pairs through the heads and back."""
        return pairs * self.costs.training

    def on_pairs(self, pairs: float, validation: float) -> float:
        """`Students.on_pairs`: for each rate all epochs, and one measurement on this many validation images."""
        return self.rates * (self.passes(self.protocol.epochs * pairs) + self.measuring(validation))

    def on_split(self, images: float, epochs: int, validation: float) -> float:
        """`Students.on_split`: for each rate and epoch all images, and one measurement on this many validation images."""
        return self.rates * epochs * (self.passes(images) + self.measuring(validation))

    def measuring(self, images: float) -> float:
        """Recall on this many images with all of their captions."""
        return measuring_flops(self.costs, images, images * self.captions_per_image)
