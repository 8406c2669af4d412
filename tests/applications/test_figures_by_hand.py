"""The figures of applications, with students that are not trained: what is averaged, remembered, left out, and chosen where."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.applications.small_inputs import inputs
from vldd_dist.applications import membership_inference
from vldd_dist.applications.continual_learning import ContinualLearning, Tasks
from vldd_dist.applications.feature_space.inputs import subset
from vldd_dist.applications.feature_space.students import Students, Trained
from vldd_dist.applications.membership_inference import MembershipInference, Pairs, Reference
from vldd_dist.applications.one_shot_federated import OneShotFederated
from vldd_dist.errors import DivergenceError
from vldd_dist.models.dual_encoder import DualEncoder
from vldd_dist.models.parameters import ParameterView
from vldd_dist.retrieval.encode import RetrievalSplit


def value_of(student: DualEncoder) -> float:
    return float(ParameterView(student).read()[0].flatten()[0])


def test_rounds_weigh_clients_by_their_images_and_the_rate_is_chosen_on_the_validation_split(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = inputs()

    def trained(self: Students, student: DualEncoder, part: RetrievalSplit, rate: float, epochs: int) -> Iterator[int]:
        ParameterView(student).write([torch.full_like(p, rate * len(part.inputs)) for p in ParameterView(student).read()])
        yield 0

    def recall(self: Students, student: DualEncoder, measured: RetrievalSplit) -> float:
        return value_of(student) if measured is given.validation else -value_of(student)

    monkeypatch.setattr(Students, "epochs_on_split", trained)
    monkeypatch.setattr(Students, "recall", recall)
    parts = [subset(given.train, torch.arange(6)), subset(given.train, torch.arange(6, 8))]
    ((rounds, found, _),) = OneShotFederated(rounds=[1])._federated_averaging(given, given.students, parts)
    # The larger rate validates best, although it is worse on the test split.
    assert (rounds, found) == (1, pytest.approx(-0.2 * (6 * 6 + 2 * 2) / 8))


def test_without_a_memory_the_rate_is_chosen_on_the_validation_split(monkeypatch: pytest.MonkeyPatch) -> None:
    given = inputs()

    def trained(self: Students, student: DualEncoder, part: RetrievalSplit, rate: float, epochs: int) -> Iterator[int]:
        ParameterView(student).write([torch.full_like(p, rate) for p in ParameterView(student).read()])
        yield 0

    monkeypatch.setattr(Students, "epochs_on_split", trained)
    monkeypatch.setattr(
        Students, "recall", lambda self, student, part: value_of(student) * (1 if part is given.validation else -1)
    )
    student, _ = ContinualLearning(tasks=2, pairs_per_task=2, epochs=1)._without_memory(Tasks(given, 2, 2), given.students)
    assert value_of(student) == pytest.approx(0.2)


def diverging(rate: float, monkeypatch: pytest.MonkeyPatch, task: int = 0) -> None:
    """Let students diverge at this rate in each training on a split after the first `task` ones, and have no recall then."""
    trained, trainings = Students.epochs_on_split, dict[float, int]()

    def until(self: Students, student: DualEncoder, part: RetrievalSplit, own: float, epochs: int) -> Iterator[int]:
        trainings[own] = trainings.get(own, 0) + 1
        if own == rate and trainings[own] > task:
            return iter(())
        return trained(self, student, part, own, epochs)

    monkeypatch.setattr(Students, "epochs_on_split", until)


def with_rates(*rates: float) -> Students:
    students = inputs().students
    return replace(students, protocol=students.protocol.model_copy(update={"learning_rates": list(rates)}))


def test_a_rate_at_which_a_client_diverges_ends_with_its_earlier_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would else be the rate of a student whose recall is 0, which is the best where all rates diverge."""
    given = inputs()
    parts = [subset(given.train, torch.arange(20)), subset(given.train, torch.arange(20, 40))]
    federated = OneShotFederated(rounds=[1, 2])
    with monkeypatch.context() as patched:
        alone = [*federated._federated_averaging(given, with_rates(0.1), parts)]
        # The second client diverges in the first round.
        diverging(0.2, patched, 1)
        assert [*federated._federated_averaging(given, with_rates(0.2, 0.1), parts)] == alone
    # In the second round.
    diverging(0.2, monkeypatch, 2)
    found = federated._federated_averaging(given, with_rates(0.2), parts)
    assert next(found)[0] == 1
    sentence = "one_shot_federated: FedAvg diverges within 2 rounds at every learning rate: add a lower one to evaluation"
    with pytest.raises(DivergenceError, match=sentence):
        next(found)


def test_a_student_without_a_memory_that_diverges_at_every_rate_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    given, application = inputs(), ContinualLearning(tasks=2, pairs_per_task=2, epochs=1)
    tasks = Tasks(given, 2, 2)
    _, alone = application._without_memory(tasks, with_rates(0.1))
    diverging(0.2, monkeypatch, 1)
    _, history = application._without_memory(tasks, with_rates(0.2, 0.1))
    assert history == alone
    with pytest.raises(DivergenceError, match="continual_learning: the student without a memory diverges at every learning"):
        application._without_memory(tasks, with_rates(0.2))


def test_a_training_whose_loss_is_not_finite_is_told_from_others() -> None:
    given = inputs()
    ended = [given.students.train_on_split(given.students.build(), given.train, rate, 3) for rate in (0.1, 1e38)]
    assert ended == [True, False]


def test_the_memory_holds_the_pairs_of_all_tasks_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    given, sizes = inputs(), list[int]()
    student = given.students.build()

    def on_pairs(self: Students, pairs: Any, validation: RetrievalSplit) -> Trained:
        sizes.append(pairs.total)
        return Trained(student, 0.0)

    application = ContinualLearning(tasks=2, pairs_per_task=3, epochs=1, baselines=["random"])
    monkeypatch.setattr(Students, "on_pairs", on_pairs)
    monkeypatch.setattr(
        type(application.distill), "run", lambda self, students, train, validation, start: students.pairs(train, start)
    )
    list(application._measure(given, Tasks(given, 2, 3), given.students))
    assert sizes == [3, 6] * 2


def test_a_pair_is_compared_with_the_references_that_never_saw_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def confidence(student: float, pairs: Pairs, gallery: Pairs, temperature: float) -> Tensor:
        return torch.full((len(pairs.images),), student)

    monkeypatch.setattr(membership_inference, "confidence", confidence)
    references: Any = [Reference(1.0, torch.tensor([0])), Reference(3.0, torch.tensor([0, 1]))]
    scored = [Pairs(torch.zeros(3, 4), torch.zeros(3, 6)), Pairs(torch.zeros(2, 4), torch.zeros(2, 6))]
    training, test = MembershipInference._expected(references, scored, scored[1], 0.07)
    # Both have seen the first image, so it is compared with both.
    assert training.tolist() == [2.0, 1.0, 2.0]
    assert test.tolist() == [2.0, 2.0]
