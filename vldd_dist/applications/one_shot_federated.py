"""One-shot federated learning: each client uploads a few pairs once, and the server trains on them (Zhou et al. 2009.07999).

The baselines upload the same number of real pairs, or the student's parameters after each round (FedAvg, McMahan et al.
1602.05629).
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

from vldd_dist.applications.base import BASELINES, FULL_DATA, Application, Baselines, Figure
from vldd_dist.applications.feature_space.inputs import Inputs, select, subset
from vldd_dist.applications.feature_space.part_distillation import START, PartDistillation
from vldd_dist.applications.feature_space.parts import LEAST_MEASURED, Clusters, dirichlet_clients, joined, set_bytes
from vldd_dist.applications.feature_space.planned import Planned
from vldd_dist.applications.feature_space.students import Students
from vldd_dist.applications.result import Result, ResultRows
from vldd_dist.config.base import Distinct, PairCount, Positive
from vldd_dist.errors import DivergenceError
from vldd_dist.evaluation.evaluator import TrainingPairs
from vldd_dist.method_names import DISTILLED
from vldd_dist.models.dual_encoder import DualEncoder
from vldd_dist.models.parameters import ParameterView
from vldd_dist.retrieval.encode import RetrievalSplit
from vldd_dist.seeding import derive_seed, numpy_generator

if TYPE_CHECKING:
    from vldd_dist.config.experiment import Experiment

# One in this many images of a client is kept for the client's own validation, but at least `LEAST_MEASURED`.
HELD_BACK = 10


class OneShotFederated(Application):
    """Compares what clients can upload by the recall of the server's student and the bytes uploaded."""

    title: ClassVar[str] = "one-shot federated learning"
    figures: ClassVar[tuple[Figure, ...]] = (
        Figure("recall", "mean recall", "higher"),
        Figure("kib", "uploaded, KiB", decimals=0),
    )
    name: str = "one_shot_federated"
    clients: Annotated[int, Field(ge=2, le=1000)] = Field(10, description="Number of clients; each has a part of the pairs.")
    clusters: Annotated[int, Field(ge=2, le=1000)] = Field(
        10, description="Number of clusters of captions; each is divided among the clients."
    )
    concentrations: Distinct[PositiveFloat] = Field(
        [0.1, 0.5],
        description="Concentrations of the Dirichlet distribution; the smaller, the more the clients' data differ.",
    )
    pairs: PairCount = Field(10, description="Pairs that each client uploads.")
    rounds: Distinct[Positive] = Field([1, 10], description="Rounds of FedAvg; a round is one epoch on each client's pairs.")
    epochs: Positive = Field(6, description="Epochs of training on all pairs in one place, for reference.")
    baselines: Baselines = Field(["random", "k_center", "herding"], validate_default=True, description=BASELINES)
    distill: PartDistillation = Field(PartDistillation(), description="How a client distils its pairs.")

    def conflicts(self, experiment: "Experiment") -> list[str]:
        return self.distill.conflicts(experiment)

    def count_conflicts(self, train_images: int) -> list[str]:
        if (needed := self.clients * self.least_images) <= train_images:
            return []
        return [
            f"applications.run: one_shot_federated needs {self.least_images} images for each of {self.clients} clients, "
            f"{needed} in all, more than the training images ({train_images}): lower clients or pairs"
        ]

    @property
    def least_images(self) -> int:
        """The least number of images of a client: `pairs` remain when it holds back those of its validation."""
        return max(self.pairs + LEAST_MEASURED, (self.pairs - 1) * HELD_BACK // (HELD_BACK - 1) + 1)

    def notes(self) -> list[str]:
        return [
            f"{self.clients} clients, among whom each of {self.clusters} clusters of captions is divided by a Dirichlet draw, "
            f"which is repeated until each client has at least {self.least_images} images.",
            f"Distilled and real pairs: each client uploads {self.pairs} once, as features and embeddings, and the server "
            "trains on them. FedAvg: each client uploads its heads' parameters in every round, after one epoch on its pairs.",
            "Learning rates are chosen on the server's validation split. Full data: all pairs in one place, for reference.",
        ]

    def flops(self, planned: Planned) -> float | None:
        """For each seed: training on all pairs; and for each concentration the rounds of FedAvg, the distillation of each
        client, and a training on the uploads of each method. All clients are taken to have the same number of images, and each
        rate of FedAvg to be measured on the test split."""
        distilled = self.distill.flops(planned, self.pairs, _held_back(planned.train // self.clients))
        if distilled is None:
            return None
        test = planned.measuring(planned.test)
        bound = planned.on_split(planned.train, self.epochs, planned.validation) + test
        measured = len(self.rounds) * (planned.measuring(planned.validation) + test)
        averaging = planned.rates * (planned.passes(max(self.rounds) * planned.train) + measured)
        uploaded = planned.on_pairs(self.clients * self.pairs, planned.validation) + test
        uploads = (len(self.baselines) + 1) * uploaded + self.clients * distilled
        return planned.seeds * (bound + len(self.concentrations) * (averaging + uploads))

    def run(self, given: Inputs) -> list[Result]:
        clusters = Clusters.of(given.train, self.clusters, derive_seed(given.seed, "clients") % 2**32).parts(given.train)
        rows = ResultRows()
        for position, seed in enumerate(given.seeds):
            students = given.students.with_seed(seed)
            trained_on_all = students.on_split(given.train, given.validation, self.epochs).student
            bound = {"recall": students.recall(trained_on_all, given.test)}
            for number, concentration in enumerate(self.concentrations):
                generator = numpy_generator(seed, "clients", number)
                client_images = dirichlet_clients(clusters, self.clients, concentration, self.least_images, generator)
                for method, figures in [(FULL_DATA, bound), *self._measure(given, students, client_images)]:
                    rows.add(method, figures, setting=f"Dirichlet {concentration:g}")
                given.report(position * len(self.concentrations) + number + 1, len(given.seeds) * len(self.concentrations))
        return sorted(rows.results(bounds=(FULL_DATA,)), key=lambda result: result.setting)

    def _measure(
        self, given: Inputs, students: Students, client_images: list[Tensor]
    ) -> Iterator[tuple[str, dict[str, float]]]:
        """(method, its figures by name) for one seed and one division of the images among the clients."""
        parts = [subset(given.train, images) for images in client_images]
        for rounds, recall, size in self._federated_averaging(given, students, parts):
            yield f"FedAvg, {rounds} round{'s' if rounds > 1 else ''}", {"recall": recall, "kib": size / 1024}
        for method, uploaded in self._uploads(students, parts):
            student = students.on_pairs(joined(uploaded), given.validation).student
            size = sum(set_bytes(pairs.rows) for pairs in uploaded)
            yield method, {"recall": students.recall(student, given.test), "kib": size / 1024}

    def _uploads(self, students: Students, parts: list[RetrievalSplit]) -> Iterator[tuple[str, list[TrainingPairs]]]:
        """(method, the pairs that each client uploads)."""
        for method in self.baselines:
            generator = numpy_generator(students.seed, "upload", method.name)
            yield method.label, [students.pairs(part, select(method, part, self.pairs, generator)) for part in parts]
        generator = numpy_generator(students.seed, "upload", DISTILLED)
        yield DISTILLED, [self._distilled(students, part, generator) for part in parts]

    def _distilled(self, students: Students, part: RetrievalSplit, generator: np.random.Generator) -> TrainingPairs:
        """A client's distilled pairs. It validates on pairs of its own, which it holds back from the distillation."""
        order = torch.from_numpy(generator.permutation(len(part.inputs)))
        held_back, used = order.tensor_split([_held_back(len(order))])
        train, validation = (subset(part, images.sort().values) for images in (used, held_back))
        return self.distill.run(students, train, validation, select(START, train, self.pairs, generator))

    def _federated_averaging(
        self, given: Inputs, students: Students, parts: list[RetrievalSplit]
    ) -> Iterator[tuple[int, float, int]]:
        """(rounds, test recall, bytes uploaded) for each number of rounds, at the learning rate that validates best for it.

        Raises:
            DivergenceError: at every learning rate a client's training diverges before the last of these rounds.
        """
        # Rounds -> (validation recall, test recall) at the best learning rate so far.
        best: dict[int, tuple[float, float]] = {}
        for rate in students.protocol.learning_rates:
            student = students.build()
            view = ParameterView(student)
            for round_number in range(1, max(self.rounds) + 1):
                if (average := _averaged_round(students, student, parts, rate, round_number)) is None:
                    break
                view.write(average)
                if round_number in self.rounds:
                    validated = students.recall(student, given.validation)
                    if round_number not in best or validated > best[round_number][0]:
                        best[round_number] = validated, students.recall(student, given.test)
        for rounds in self.rounds:
            if rounds not in best:
                within = f"{rounds} round{'s' * (rounds > 1)}"
                raise DivergenceError(
                    f"one_shot_federated: FedAvg diverges within {within} at every learning rate: add a lower one to "
                    "evaluation.learning_rates"
                )
            yield rounds, best[rounds][1], rounds * len(parts) * view.count * 4


def _averaged_round(
    students: Students, student: DualEncoder, parts: list[RetrievalSplit], rate: float, round_number: int
) -> list[Tensor] | None:
    """The parameters after a round: each client trains the student for an epoch on its part, from the student's present
    parameters, and the results are averaged with the clients' numbers of images as weights. None if a client's training
    diverges.

    Args:
        student: left with the parameters of the last client.
    """
    view = ParameterView(student)
    total_images = sum(len(part.inputs) for part in parts)
    common, average = view.read(), list[Tensor]()
    for client, part in enumerate(parts):
        view.write(common)
        of_client = students.with_seed(derive_seed(students.seed, "round", round_number, client))
        if not of_client.train_on_split(student, part, rate, 1):
            return None
        weighted = [parameter * (len(part.inputs) / total_images) for parameter in view.read()]
        average = [a + b for a, b in zip(average, weighted, strict=True)] if average else weighted
    return average


def _held_back(images: int) -> int:
    """The number of validation images of a client with so many images."""
    return max(images // HELD_BACK, LEAST_MEASURED)
