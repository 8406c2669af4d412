"""The sets of pairs that an experiment evaluates: the rows of its table."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from vldd_dist.config.experiment import Experiment
from vldd_dist.method_names import DISTILLED
from vldd_dist.pipeline.stage import Key


class EvaluatedStudent(NamedTuple):
    """A student that is trained on pairs and evaluated."""

    seed: int
    image_model: str


@dataclass(frozen=True)
class EvaluatedSet:
    """One set of pairs.

    Attributes:
        method: "distilled", or the name of a coreset method.
        pairs: M, the number of pairs.
        seed: of the distillation, or of the coreset's selection.
        source: (kind, *key) of the unit that makes the pairs.
        evaluation_seeds: one student is trained for each, on each image model.
        averages: whether it is a coreset whose pairs may be means of several real ones.
    """

    method: str
    pairs: int
    seed: int
    source: Key
    evaluation_seeds: tuple[int, ...]
    image_models: tuple[str, ...]
    averages: bool = False

    def evaluations(self, image_model: str | None = None) -> Iterator[Key]:
        """Keys of the set's evaluations, on one image model or, by default, on all."""
        for name in self.image_models if image_model is None else (image_model,):
            for seed in self.evaluation_seeds:
                yield self.source, EvaluatedStudent(seed, name)

    def rows(self, own_model: str) -> Iterator[tuple[str, tuple[str, int, str | None]]]:
        """Each image model, and the row of its students in the recall table: (method, pairs, image model), where None stands
        for the experiment's own.

        Args:
            own_model: the experiment's own image model.
        """
        for model in self.image_models:
            yield model, (self.method, self.pairs, None if model == own_model else model)


def evaluated_sets(experiment: Experiment) -> list[EvaluatedSet]:
    """Coresets first, then distilled sets. For each evaluation seed a coreset is selected again, using another expert
    if there are enough."""
    models, seeds = tuple(experiment.image_models()), tuple(experiment.evaluation.seeds)
    return [*_coresets(experiment, models), *_distilled(experiment, models, seeds)]


def _coresets(experiment: Experiment, models: tuple[str, ...]) -> Iterator[EvaluatedSet]:
    for pairs in experiment.distill.pairs:
        for method in experiment.coresets.methods:
            for position, seed in enumerate(experiment.evaluation.seeds):
                expert = position % experiment.experts.count
                source = "coreset", method, pairs, seed, expert
                yield EvaluatedSet(method.label, pairs, seed, source, (seed,), models, method.averages)


def _distilled(experiment: Experiment, models: tuple[str, ...], seeds: tuple[int, ...]) -> Iterator[EvaluatedSet]:
    for pairs, seed in experiment.distill.sets():
        yield EvaluatedSet(DISTILLED, pairs, seed, ("distillation", pairs, seed), seeds, models)
