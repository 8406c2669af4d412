"""The running average of the pairs: its definition, that it is published, and that a resumed run continues it."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.distillation.small_runs import Inputs, distillation, stopped_run
from vldd_dist.distillation.pairs import SyntheticPairs
from vldd_dist.store.store import Store

STEPS, DECAY = 7, 0.8
CHANGES: dict[str, Any] = {"outer_steps": STEPS, "validate_every": 1, "batch_size": 3, "ema": DECAY}


def values(pairs: SyntheticPairs) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in (pairs.rows | pairs.shared).items()}


def test_the_running_average_is_validated_and_published(inputs: Inputs, store: Store) -> None:
    """For images, texts and rates, and also for pairs that a step did not draw."""
    validated: list[dict[str, Tensor]] = []
    visited: list[dict[str, Tensor]] = []

    def validate(pairs: SyntheticPairs) -> float:
        validated.append(values(pairs))
        visited.append(values(run.pairs))
        return float(len(validated))

    run = distillation(inputs, store, validate, **CHANGES)
    run.run()
    assert len(validated) == STEPS + 1
    for name, start in visited[0].items():
        assert torch.equal(validated[0][name], start)
        for done in range(1, STEPS + 1):
            weights = torch.tensor([DECAY ** (done - step) for step in range(1, done + 1)])
            seen = torch.stack([visited[step][name] for step in range(1, done + 1)])
            mean = torch.tensordot(weights / weights.sum(), seen, dims=1)
            torch.testing.assert_close(validated[done][name], mean, rtol=1e-4, atol=1e-5)
        assert torch.equal(values(run.best)[name], validated[-1][name])
        assert not torch.equal(values(run.best)[name], values(run.pairs)[name])


def test_it_does_not_change_how_the_pairs_move(inputs: Inputs, tmp_path: Any) -> None:
    averaged, plain = (
        distillation(inputs, Store(str(tmp_path / str(decay))), **CHANGES | {"ema": decay}) for decay in (DECAY, 0.0)
    )
    averaged.run()
    plain.run()
    assert averaged.history == plain.history
    for name, tensor in values(plain.pairs).items():
        assert torch.equal(values(averaged.pairs)[name], tensor)


@pytest.mark.parametrize("fixed", [{}, {"lr_images": 0.0}])
def test_a_resumed_run_is_bit_identical(fixed: dict[str, float], inputs: Inputs, tmp_path: Any) -> None:
    changes = CHANGES | {"validate_every": STEPS, "checkpoint_every": 2} | fixed
    whole, _, resumed = stopped_run(inputs, tmp_path, 5, **changes)
    resumed.run()
    for ours, theirs in ((resumed.pairs, whole.pairs), (resumed.average.value, whole.average.value)):
        for name, tensor in values(theirs).items():
            assert torch.equal(values(ours)[name], tensor), name
