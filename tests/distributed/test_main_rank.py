"""Rank 0 decides for all ranks, also where the others would compute something else, and may take its time."""

import math
import time
from collections.abc import Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import torch

from tests.small_students import evaluator, pairs, split
from vldd_dist.distillation.initialisations.k_means import KMeansPairs
from vldd_dist.errors import ConfigError
from vldd_dist.evaluation.evaluator import TrainingPairs, train_student
from vldd_dist.retrieval.recall import Recall
from vldd_dist.sharding.ranks import ALIVE_SECONDS, LostRank, Ranks
from vldd_dist.testing.processes.group import Group

TIMEOUT = timedelta(seconds=2)
# Learning rate -> validation recall, as each of two ranks on unlike machines computes it.
MEASURED = [{0.01: 50.0, 0.02: 50.1, 0.03: 40.0}, {0.01: 50.1, 0.02: 50.0, 0.03: 60.0}]


def chosen(ranks: Ranks) -> tuple[float, dict[float, float]]:
    """The learning rate that this rank chooses, and the mean recall of each."""
    measured, trained = MEASURED[ranks.rank], list[float]()

    def train(student: object, pairs: object, settings: object, rate: float, *rest: object) -> bool:
        trained.append(rate)
        return True

    def measure(*arguments: object) -> Recall:
        value = measured[trained[-1]]
        return Recall((value,) * 3, (value,) * 3)

    module = "vldd_dist.evaluation.evaluator"
    with patch(f"{module}.train_student", train), patch(f"{module}.measure", measure):
        choice = evaluator(list(measured)).choose(TrainingPairs(pairs().rows, 10, ranks), split()[0])
    return choice.learning_rate, {rate: recall.mean for rate, recall in choice.validation.items()}


def test_ranks_whose_machines_round_differently_choose_the_same_learning_rate(group: Callable[[int], Group]) -> None:
    found = group(2).run(chosen)
    assert found[0] == (0.02, pytest.approx(MEASURED[0]))
    assert found[1] == found[0]


def trained_where_one_diverges(ranks: Ranks) -> tuple[bool, bool]:
    """Whether training ended well: where rank 1 finds an infinite loss in the first epoch, and where rank 0 does."""
    told, results, used = math.isfinite, [], evaluator([0.1])
    for wrong in (1, 0):
        student = used.build_student()
        own = TrainingPairs({name: rows[slice(*ranks.rows(10))] for name, rows in pairs().rows.items()}, 10, ranks)
        with patch("vldd_dist.evaluation.evaluator.math") as module:
            module.isfinite = lambda loss, wrong=wrong: told(loss) and ranks.rank != wrong
            results.append(train_student(student, own.in_model_inputs(student), used.settings, 0.1, used.loss, 3))
    return results[0], results[1]


def test_ranks_stop_training_together_if_they_differ_in_whether_the_loss_is_finite(group: Callable[[int], Group]) -> None:
    assert group(2).run(trained_where_one_diverges) == [(True, False)] * 2


def started(ranks: Ranks) -> Any:
    """The real pairs that k-means chooses for this rank; choosing takes longer than the timeout of collectives."""
    if ranks.is_main:
        threads_of_main = torch.get_num_threads()

    def choose(self: KMeansPairs, context: object) -> tuple[list[int], list[int]]:
        assert ranks.is_main
        assert torch.get_num_threads() == threads_of_main
        time.sleep(3 * TIMEOUT.total_seconds())
        return [ranks.rank, 7], [0, 1]

    module = "vldd_dist.distillation.initialisations.k_means"
    with patch.object(KMeansPairs, "_choose", choose), patch(f"{module}.start_from_real", lambda context, *choice: choice):
        return KMeansPairs().start(SimpleNamespace(ranks=ranks, choices={}))  # type: ignore[arg-type]


def imported(ranks: Ranks) -> None:
    """Does nothing. The first call imports this module, which takes longer than the timeout on a busy machine."""


def failed(ranks: Ranks) -> None:
    """A computation that fails on rank 0, on which the others wait."""

    def fail() -> None:
        time.sleep(2 * ALIVE_SECONDS)
        raise ConfigError("fewer images than pairs")

    with pytest.raises(ConfigError if ranks.is_main else LostRank), ranks.noticing_a_loss():
        ranks.from_main(fail)


def test_a_rank_that_computes_for_longer_than_the_timeout_is_waited_for() -> None:
    ranks = Group(2, TIMEOUT)
    try:
        ranks.run(imported)
        assert ranks.run(started) == [([0, 7], [0, 1])] * 2
        ranks.run(failed)
    finally:
        ranks.close()
