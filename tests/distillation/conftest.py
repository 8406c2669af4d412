"""What several tests of the outer loop start from."""

import pytest

from tests.distillation.small_runs import Problem, make_problem


@pytest.fixture(scope="session")
def problem() -> Problem:
    return make_problem()
