"""Where a GPU is needed."""

import pytest
import torch


@pytest.fixture
def gpu() -> torch.device:
    """The first GPU."""
    if not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA GPU on this machine")
    return torch.device("cuda")
