"""Continual learning from a memory: tasks come one after the other, and a student is trained from scratch on what was kept of
all of them (GDumb, Prabhu et al., ECCV 2020).

A task is a cluster of captions. The memory has as many pairs of each task whatever they are, as features and embeddings, so
that real and distilled ones take the same bytes.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar

import torch
from pydantic import Field

from vldd_dist.applications.base import BASELINES, DISTILLED, FULL, Application, Baselines, Figure
from vldd_dist.applications.inputs import Inputs, part_of, select
from vldd_dist.applications.part_distillation import START, PartDistillation
from vldd_dist.applications.parts import Clusters, joined, set_bytes
from vldd_dist.applications.result import Result
from vldd_dist.applications.students import Students
from vldd_dist.config.base import Positive
from vldd_dist.errors import ConfigError
from vldd_dist.evaluation.evaluator import TrainingPairs
from vldd_dist.models.dual_encoder import DualEncoder
from vldd_dist.retrieval.encode import RetrievalSplit
from vldd_dist.seeding import derive_seed, numpy_generator

if TYPE_CHECKING:
    from vldd_dist.config.experiment import Experiment

NO_MEMORY = "no memory"
# Test recall of each task seen so far, percent: a row for each time a task was learned.
History = list[list[float]]


class Tasks:
    """The parts of each split.

    Raises:
        ConfigError: a task has fewer training images than pairs, or none to validate or test on.
    """

    def __init__(self, given: Inputs, count: int, pairs: int) -> None:
        clusters = Clusters.of(given.train, count, derive_seed(given.seed, "tasks") % 2**32)
        self.given = given
        self.train, self.validation, self.test = (
            [part_of(split, images) for images in clusters.parts(split)]
            for split in (given.train, given.validation, given.test)
        )
        self.validation_images = clusters.parts(given.validation)
        for parts, least in ((self.train, pairs), (self.validation, 1), (self.test, 1)):
            if (smallest := min(len(part.inputs) for part in parts)) < least:
                raise ConfigError(
                    f"continual_learning: a cluster has {smallest} images of a split where {least} are needed: lower tasks or "
                    "pairs_a_task"
                )

    def seen(self, task: int) -> RetrievalSplit:
        """The validation pairs of this task and of those before it."""
        return part_of(self.given.validation, torch.cat(self.validation_images[: task + 1]).sort().values)

    def recalls(self, students: Students, student: DualEncoder, task: int) -> list[float]:
        """Of each task so far, on its own test pairs."""
        return [students.recall(student, part) for part in self.test[: task + 1]]


class ContinualLearning(Application):
    """Final recall and forgetting with a memory of distilled pairs and of real ones."""

    title: ClassVar[str] = "continual learning"
    figures: ClassVar[tuple[Figure, ...]] = (
        Figure("recall", "final mean recall", "higher"),
        Figure("forgetting", "forgetting", "lower"),
        Figure("kib", "memory, KiB", decimals=0),
    )
    name: str = "continual_learning"
    tasks: Annotated[int, Field(ge=2, le=100)] = Field(5, description="Clusters of the captions.")
    pairs_a_task: Positive = Field(20, description="Pairs that the memory keeps of each task.")
    epochs: Positive = Field(6, description="On all pairs: of joint training, and of each task where there is no memory.")
    baselines: Baselines = Field(["random", "herding"], validate_default=True, description=BASELINES)
    distil: PartDistillation = Field(PartDistillation(), description="How a task's pairs are distilled.")

    def problems(self, experiment: "Experiment") -> list[str]:
        return self.distil.problems(experiment)

    def notes(self) -> list[str]:
        return [
            f"{self.tasks} tasks, clusters of the captions, {self.pairs_a_task} pairs of each kept as features and embeddings; "
            "the student is trained from scratch on the memory after each task.",
            "Final mean recall: the mean of the six test recalls over all test pairs, after the last task. Forgetting: how far "
            "the recall of an earlier task's own test pairs ends below its best, in the mean over these tasks.",
            "No memory: one student goes on from task to task on all pairs of each. Full data: all tasks at once, the bound.",
        ]

    def run(self, given: Inputs) -> list[Result]:
        tasks, found = Tasks(given, self.tasks, self.pairs_a_task), dict[str, dict[str, list[float]]]()
        for position, seed in enumerate(given.seeds):
            for method, figures in self._measured(given, tasks, given.students.with_seed(seed)):
                row = found.setdefault(method, {})
                for key, value in figures.items():
                    row.setdefault(key, []).append(value)
            given.report(position + 1, len(given.seeds))
        return [Result(method=method, figures=figures, bound=method in (FULL, NO_MEMORY)) for method, figures in found.items()]

    def _measured(self, given: Inputs, tasks: Tasks, students: Students) -> Iterator[tuple[str, dict[str, float]]]:
        joint = students.on_split(given.train, given.validation, self.epochs).student
        yield FULL, {"recall": students.recall(joint, given.test)}
        student, history = self._without_memory(tasks, students)
        yield NO_MEMORY, {"recall": students.recall(student, given.test), "forgetting": forgetting(history)}
        for method, memory in self._memories(tasks, students):
            history = []
            for task in range(self.tasks):
                student = students.on_pairs(joined(memory[: task + 1]), tasks.seen(task)).student
                history.append(tasks.recalls(students, student, task))
            yield (
                method,
                {
                    "recall": students.recall(student, given.test),
                    "forgetting": forgetting(history),
                    "kib": sum(map(set_bytes, memory)) / 1024,
                },
            )

    def _memories(self, tasks: Tasks, students: Students) -> Iterator[tuple[str, list[TrainingPairs]]]:
        """Of each method what it keeps of each task."""
        for method in self.baselines:
            generator = numpy_generator(students.seed, "memory", method.name)
            chosen = [select(method, part, self.pairs_a_task, generator) for part in tasks.train]
            yield method.label, [students.pairs(part, numbers) for part, numbers in zip(tasks.train, chosen, strict=True)]
        generator = numpy_generator(students.seed, "memory", DISTILLED)
        starts = [select(START, part, self.pairs_a_task, generator) for part in tasks.train]
        yield (
            DISTILLED,
            [
                self.distil.distil(students, train, validation, start)
                for train, validation, start in zip(tasks.train, tasks.validation, starts, strict=True)
            ],
        )

    def _without_memory(self, tasks: Tasks, students: Students) -> tuple[DualEncoder, History]:
        """At the rate whose student ends best by validation."""
        best: tuple[float, DualEncoder, History] | None = None
        for rate in students.protocol.learning_rates:
            student, history = students.build(), []
            for task, part in enumerate(tasks.train):
                for _ in students.epochs_on_split(student, part, rate, self.epochs):
                    pass
                history.append(tasks.recalls(students, student, task))
            validated = students.recall(student, tasks.given.validation)
            if best is None or validated > best[0]:
                best = validated, student, history
        assert best is not None
        return best[1], best[2]


def forgetting(history: History) -> float:
    """The mean over all tasks but the last of the best earlier recall less the final one (Chaudhry et al. 1801.10112)."""
    final, earlier = history[-1], history[:-1]
    lost = [max(row[task] for row in earlier[task:]) - final[task] for task in range(len(earlier))]
    return sum(lost) / len(lost)
