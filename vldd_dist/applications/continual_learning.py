"""Continual learning with a memory: tasks arrive one after the other, and after each a student is trained from scratch on the
pairs that the memory holds of all tasks so far (GDumb, Prabhu et al., ECCV 2020).

A task is a cluster of captions. The memory holds the same number of pairs of each task, as features and embeddings, so that
real and distilled pairs take the same number of bytes.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar

import torch
from pydantic import Field

from vldd_dist.applications.base import BASELINES, FULL_DATA, Application, Baselines, Figure
from vldd_dist.applications.feature_space.inputs import Inputs, select, subset
from vldd_dist.applications.feature_space.part_distillation import START, PartDistillation
from vldd_dist.applications.feature_space.parts import LEAST_MEASURED, Clusters, joined, set_bytes
from vldd_dist.applications.feature_space.planned import Planned
from vldd_dist.applications.feature_space.students import Students
from vldd_dist.applications.result import Result, ResultRows
from vldd_dist.config.base import PairCount, Positive
from vldd_dist.errors import ConfigError, DivergenceError
from vldd_dist.evaluation.evaluator import TrainingPairs
from vldd_dist.method_names import DISTILLED
from vldd_dist.models.dual_encoder import DualEncoder
from vldd_dist.retrieval.encode import RetrievalSplit
from vldd_dist.seeding import derive_seed, numpy_generator

if TYPE_CHECKING:
    from vldd_dist.config.experiment import Experiment

NO_MEMORY = "no memory"
# Row t: after task t was learned, the test recall of tasks 0 to t, in percent.
TaskRecalls = list[list[float]]


class Tasks:
    """The tasks: each has a part of each split.

    Args:
        count: number of tasks.
        pairs: pairs that the memory holds of each task.

    Raises:
        ConfigError: a task has fewer training images than `pairs`, or fewer than `LEAST_MEASURED` validation or test images.
    """

    def __init__(self, given: Inputs, count: int, pairs: int) -> None:
        clusters = Clusters.of(given.train, count, derive_seed(given.seed, "tasks") % 2**32)
        self.given = given
        self.train, self.validation, self.test = (
            [subset(split, images) for images in clusters.parts(split)] for split in (given.train, given.validation, given.test)
        )
        self.validation_images = clusters.parts(given.validation)
        for parts, name, least, mend in (
            (self.train, "training", pairs, "pairs_per_task"),
            (self.validation, "validation", LEAST_MEASURED, "take a larger validation split"),
            (self.test, "test", LEAST_MEASURED, "take a larger test split"),
        ):
            if (smallest := min(len(part.inputs) for part in parts)) < least:
                raise ConfigError(
                    f"continual_learning: a cluster has {smallest} of the {least} {name} images that a task needs: "
                    f"lower tasks, or {mend}"
                )

    def seen(self, task: int) -> RetrievalSplit:
        """The validation pairs of this task and of all tasks before it."""
        return subset(self.given.validation, torch.cat(self.validation_images[: task + 1]).sort().values)

    def recalls(self, students: Students, student: DualEncoder, task: int) -> list[float]:
        """The recall of each task up to this one, on the task's own test pairs."""
        return [students.recall(student, part) for part in self.test[: task + 1]]


class ContinualLearning(Application):
    """Compares memories of distilled and of real pairs by the final recall and by forgetting."""

    title: ClassVar[str] = "continual learning"
    figures: ClassVar[tuple[Figure, ...]] = (
        Figure("recall", "final mean recall", "higher"),
        Figure("forgetting", "forgetting", "lower"),
        Figure("kib", "memory, KiB", decimals=0),
    )
    name: str = "continual_learning"
    tasks: Annotated[int, Field(ge=2, le=100)] = Field(5, description="Number of tasks; each is a cluster of captions.")
    pairs_per_task: PairCount = Field(20, description="Pairs that the memory keeps of each task.")
    epochs: Positive = Field(
        6, description="Epochs of training on all pairs: of all tasks at once, and of each task in turn without a memory."
    )
    baselines: Baselines = Field(["random", "k_center", "herding"], validate_default=True, description=BASELINES)
    distill: PartDistillation = Field(PartDistillation(), description="How a task's pairs are distilled.")

    def conflicts(self, experiment: "Experiment") -> list[str]:
        conflicts = self.distill.conflicts(experiment)
        needed = self.tasks * LEAST_MEASURED
        for split in ("val", "test"):
            images = experiment.data.limits[split]
            if images is not None and images < needed:
                conflicts.append(
                    f"applications.run: continual_learning needs {needed} {split} images ({LEAST_MEASURED} for each task), "
                    f"more than data.{split}_images ({images}): lower tasks, or raise data.{split}_images"
                )
        return conflicts

    def count_conflicts(self, train_images: int) -> list[str]:
        if (needed := self.tasks * self.pairs_per_task) <= train_images:
            return []
        return [
            f"applications.run: continual_learning keeps {needed} pairs (tasks times pairs_per_task), more than the training "
            f"images ({train_images}): lower tasks or pairs_per_task"
        ]

    def notes(self) -> list[str]:
        return [
            f"{self.tasks} tasks, clusters of the captions, {self.pairs_per_task} pairs of each kept as features and "
            "embeddings; the student is trained from scratch on the memory after each task.",
            "Final mean recall: the mean of the six recalls on all test pairs, after the last task. Forgetting: how far the "
            "final recall on an earlier task's own test pairs is below its best, averaged over these tasks.",
            "No memory: one student is trained on all pairs of each task in turn. Full data: all tasks at once, for reference.",
        ]

    def flops(self, planned: Planned) -> float | None:
        """For each seed: training on all tasks at once and on one after the other, the distillation of each task, and for each
        memory a training after each task. All tasks are taken to have the same number of images."""
        tasks, validation = self.tasks, planned.validation / self.tasks
        distilled = self.distill.flops(planned, self.pairs_per_task, validation)
        if distilled is None:
            return None
        test = planned.measuring(planned.test)
        # After each task, the recall on the test pairs of each task so far.
        history = sum(range(1, tasks + 1)) * planned.measuring(planned.test / tasks)
        joint = planned.on_split(planned.train, self.epochs, planned.validation) + test
        one_pass = planned.passes(self.epochs * planned.train) + history + planned.measuring(planned.validation)
        memory = history + test
        for seen in range(1, tasks + 1):
            memory += planned.on_pairs(seen * self.pairs_per_task, seen * validation)
        memories = (len(self.baselines) + 1) * memory + tasks * distilled
        return planned.seeds * (joint + planned.rates * one_pass + test + memories)

    def run(self, given: Inputs) -> list[Result]:
        tasks = Tasks(given, self.tasks, self.pairs_per_task)
        rows = ResultRows()
        for position, seed in enumerate(given.seeds):
            for method, figures in self._measure(given, tasks, given.students.with_seed(seed)):
                rows.add(method, figures)
            given.report(position + 1, len(given.seeds))
        return rows.results(bounds=(FULL_DATA, NO_MEMORY))

    def _measure(self, given: Inputs, tasks: Tasks, students: Students) -> Iterator[tuple[str, dict[str, float]]]:
        """(method, its figures by name) for one seed."""
        joint = students.on_split(given.train, given.validation, self.epochs).student
        yield FULL_DATA, {"recall": students.recall(joint, given.test)}
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
                    "kib": sum(set_bytes(pairs.rows) for pairs in memory) / 1024,
                },
            )

    def _memories(self, tasks: Tasks, students: Students) -> Iterator[tuple[str, list[TrainingPairs]]]:
        """(method, the pairs that it keeps of each task)."""
        for method in self.baselines:
            generator = numpy_generator(students.seed, "memory", method.name)
            chosen = [select(method, part, self.pairs_per_task, generator) for part in tasks.train]
            yield method.label, [students.pairs(part, numbers) for part, numbers in zip(tasks.train, chosen, strict=True)]
        generator = numpy_generator(students.seed, "memory", DISTILLED)
        starts = [select(START, part, self.pairs_per_task, generator) for part in tasks.train]
        distilled = [
            self.distill.run(students, train, validation, start)
            for train, validation, start in zip(tasks.train, tasks.validation, starts, strict=True)
        ]
        yield DISTILLED, distilled

    def _without_memory(self, tasks: Tasks, students: Students) -> tuple[DualEncoder, TaskRecalls]:
        """The final student and its recalls, at the learning rate whose final student validates best.

        Raises:
            DivergenceError: training diverges at every learning rate.
        """
        best: tuple[float, DualEncoder, TaskRecalls] | None = None
        for rate in students.protocol.learning_rates:
            student, history = students.build(), []
            for task, part in enumerate(tasks.train):
                if not students.train_on_split(student, part, rate, self.epochs):
                    break
                history.append(tasks.recalls(students, student, task))
            if len(history) < self.tasks:
                continue
            validated = students.recall(student, tasks.given.validation)
            if best is None or validated > best[0]:
                best = validated, student, history
        if best is None:
            raise DivergenceError(
                "continual_learning: the student without a memory diverges at every learning rate: add a lower one to "
                "evaluation.learning_rates"
            )
        return best[1], best[2]


def forgetting(history: TaskRecalls) -> float:
    """The best earlier recall of a task minus its final one, averaged over all tasks but the last (Chaudhry et al.
    1801.10112)."""
    final, earlier = history[-1], history[:-1]
    lost = [max(row[task] for row in earlier[task:]) - final[task] for task in range(len(earlier))]
    return sum(lost) / len(lost)
