"""Rank 0 decides for all ranks, also where the others would compute something else, and may take its time."""

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from unittest.mock import patch

import pytest

from tests.evaluation.test_evaluator import evaluator, pairs, split
from vldd_dist.distillation.initialisations.kmeans import KMeansPairs
from vldd_dist.evaluation.evaluator import TrainingPairs
from vldd_dist.retrieval.recall import Recall
from vldd_dist.sharding.ranks import Ranks
from vldd_dist.testing.processes.group import Group

# Learning rate -> validation recall, as each of two ranks on unlike machines computes it; None: the loss diverges there.
MEASURED = [{0.01: 50.0, 0.02: 50.1, 0.03: 40.0}, {0.01: 50.1, 0.02: 50.0, 0.03: None}]


def chosen(ranks: Ranks) -> tuple[float, dict[float, float]]:
    """The learning rate that this rank chooses, and the mean recall of each."""
    measured, trained = MEASURED[ranks.rank], list[float]()

    def train(student: object, pairs: object, settings: object, rate: float, *rest: object) -> bool:
        trained.append(rate)
        return measured[rate] is not None

    def measure(*arguments: object) -> Recall:
        value = measured[trained[-1]] or 0.0
        return Recall((value,) * 3, (value,) * 3)

    module = "vldd_dist.evaluation.evaluator"
    with patch(f"{module}.train_student", train), patch(f"{module}.measure", measure):
        choice = evaluator(list(measured)).choose(TrainingPairs(pairs().rows, 10, ranks), split()[0])
    return choice.learning_rate, {rate: recall.mean for rate, recall in choice.validation.items()}


def test_ranks_whose_machines_round_differently_choose_the_same_learning_rate(group: Callable[[int], Group]) -> None:
    found = group(2).run(chosen)
    assert found[0] == (0.02, pytest.approx(MEASURED[0]))
    assert found[1] == found[0]
