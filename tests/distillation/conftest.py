"""Fixtures that several tests of the outer loop share."""

import pytest

from tests.distillation.small_runs import Problem, make_problem


@pytest.fixture(scope="session")
def problem() -> Problem:
    return make_problem()
