"""The fixture of tests that need a GPU."""

import pytest
import torch


@pytest.fixture
def gpu() -> torch.device:
    """The first GPU. Without one the test is skipped."""
    if not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA GPU on this machine")
    return torch.device("cuda")
