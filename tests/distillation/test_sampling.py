"""What an outer step draws, and how ranks share it."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from vldd_dist.config.distillation import DistillSettings
from vldd_dist.distillation.sampling import Draw, draw, expert_pool, inner_batch_size
from vldd_dist.sharding.ranks import rows_of


def drawn(pairs: int, batch_size: int | None, inner_steps: int = 8, outer_step: int = 0, seed: int = 0) -> Draw:
    return draw(DistillSettings(inner_steps=inner_steps, batch_size=batch_size), 1, pairs, seed, outer_step)


def test_draws_use_every_pair_equally_and_depend_on_seed_and_step_only() -> None:
    settings = DistillSettings(inner_steps=6, batch_size=5, max_start_epoch=3)
    draws = [draw(settings, experts=4, pairs=10, seed=1, outer_step=step) for step in range(200)]
    assert {d.expert for d in draws} == {0, 1, 2, 3}
    assert {d.start for d in draws} == {0, 1, 2, 3}
    for one in draws[:20]:
        assert [len(batch) for batch in one.batches] == [5] * 6
        assert np.bincount(torch.cat(one.batches).numpy(), minlength=10).tolist() == [3] * 10
    again = draw(settings, 4, 10, 1, 7)
    assert all(torch.equal(a, b) for a, b in zip(again.batches, draws[7].batches, strict=True))
    other = draw(settings, 4, 10, 2, 7)
    assert not all(torch.equal(a, b) for a, b in zip(again.batches, other.batches, strict=True))


@pytest.mark.parametrize("batch_size", [None, 7, 8, 1000])
def test_without_a_smaller_batch_every_step_uses_all_pairs(batch_size: int | None) -> None:
    assert [batch.tolist() for batch in drawn(7, batch_size, 3).batches] == [list(range(7))] * 3
    assert inner_batch_size(DistillSettings(batch_size=batch_size), 7) == 7


@given(
    pairs=st.integers(1, 400),
    batch_size=st.integers(1, 500),
    inner_steps=st.integers(1, 20),
    outer_step=st.integers(0, 10**6),
    seed=st.integers(0, 10**6),
)
@hypothesis_settings(max_examples=200, deadline=None)
def test_no_pair_is_twice_in_a_batch(pairs: int, batch_size: int, inner_steps: int, outer_step: int, seed: int) -> None:
    """Twice it would be a negative of itself. And none is used more than once a permutation."""
    batches, size = drawn(pairs, batch_size, inner_steps, outer_step, seed).batches, min(batch_size, pairs)
    assert [len(batch) for batch in batches] == [size] * inner_steps
    assert all(len(batch.unique()) == size for batch in batches)
    assert all(torch.equal(batch, batch.sort().values) for batch in batches)
    uses = np.bincount(torch.cat(batches).numpy(), minlength=pairs)
    assert len(uses) == pairs
    assert uses.max() <= -(-inner_steps // (pairs // size))


@pytest.mark.parametrize(("pairs", "batch_size"), [(100, 40), (150, 100)])
def test_pairs_are_used_about_equally_where_the_batch_does_not_divide_them(pairs: int, batch_size: int) -> None:
    batches = [batch for step in range(400) for batch in drawn(pairs, batch_size, outer_step=step).batches]
    assert len(batches) == 3200
    assert all(len(batch.unique()) == batch_size for batch in batches)
    uses, expected = np.bincount(torch.cat(batches).numpy(), minlength=pairs), 3200 * batch_size / pairs
    # Five standard deviations of the sum of that many independent choices.
    assert np.abs(uses - expected).max() < 5 * (expected * (1 - batch_size / pairs)) ** 0.5


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize(("pairs", "batch_size"), [(100, 24), (100, 40), (10, 7)])
def test_ranks_share_a_draw(world: int, pairs: int, batch_size: int) -> None:
    """Whatever their number they compute the same pairs, each an equal part and most of them its own."""
    one = drawn(pairs, batch_size, 3, outer_step=5)
    shares = [one.share(rank, world) for rank in range(world)]
    for step, batch in enumerate(one.batches):
        parts = [share.used[share.places[step]] for share in shares]
        assert torch.equal(torch.cat(parts), batch)
        assert max(len(part) for part in parts) - min(len(part) for part in parts) <= 1
        assert torch.equal(batch, batch.unique())
    at_home = sum(
        int(((share.used >= start) & (share.used < stop)).sum())
        for rank, share in enumerate(shares)
        for start, stop in [rows_of(rank, world, pairs)]
    )
    assert at_home > 0.7 * sum(len(share.used) for share in shares)
    assert [len(share.used) for share in shares] == [len(torch.unique(share.used)) for share in shares]


def test_the_pool_of_experts_grows_over_the_first_half() -> None:
    settings = DistillSettings(min_experts=2, outer_steps=12)
    assert [expert_pool(settings, 5, step) for step in range(12)] == [2, 2, 3, 3, 4, 4, 5, 5, 5, 5, 5, 5]
    assert [expert_pool(DistillSettings(outer_steps=12), 5, step) for step in (0, 11)] == [5, 5]
    assert {draw(settings, 5, 4, 0, 0).expert for _ in range(3)} <= {0, 1}
    assert {draw(settings.model_copy(update={"outer_steps": 10**6}), 5, 4, 0, step).expert for step in range(50)} == {0, 1}
