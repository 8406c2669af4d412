"""Random numbers of torch's global generators."""

import pytest
import torch

from vldd_dist.seeding import seeded


def test_seeded_numbers_leave_the_generator_and_cuda_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A unit on the CPU must not start CUDA: another unit may own the GPU, or its driver may not work."""
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda *arguments: pytest.fail("CUDA was started"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    before = torch.get_rng_state()
    drawn = []
    for seed, device in ((1, torch.device("cpu")), (1, None), (2, None)):
        with seeded(seed, device):
            drawn.append(torch.rand(4))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert torch.equal(torch.get_rng_state(), before)
