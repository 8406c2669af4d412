"""Fixtures that several tests of the outer loop share."""

import pytest

from tests.distillation.small_runs import Inputs, make_inputs


@pytest.fixture(scope="session")
def inputs() -> Inputs:
    return make_inputs()
