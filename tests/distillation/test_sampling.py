"""The draws of an outer step, and how they are divided among ranks."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from vldd_dist.distillation.batch_exchange import rank_rows
from vldd_dist.distillation.inner_batches import inner_batch_size
from vldd_dist.distillation.objectives.trajectory_matching import TrajectoryMatching
from vldd_dist.distillation.objectives.trajectory_matching.sampler import Draw, Sampler
from vldd_dist.sharding.ranks import rows_of


def sampler(
    pairs: int = 4,
    experts: int = 1,
    batch_size: int | None = None,
    *,
    inner_steps: int = 8,
    starts: range = range(3),
    min_experts: int | None = None,
    outer_steps: int = 2000,
    seed: int = 0,
) -> Sampler:
    size = inner_batch_size(batch_size, pairs)
    return Sampler(pairs, experts, size, inner_steps, [(start, start) for start in starts], min_experts, outer_steps, seed)


def test_starts_are_drawn_from_a_stride() -> None:
    settings = TrajectoryMatching(max_start_epoch=12, start_stride=5, expert_epochs=3)
    assert list(settings.starts()) == [0, 5, 10]
    assert settings.reached_epochs() == {0, 3, 5, 8, 10, 13}
    found = [sampler(starts=settings.starts()).draw(step).starts[0] for step in range(200)]
    assert set(found) == {0, 5, 10}
    assert [sampler(starts=range(1)).draw(step).starts[0] for step in range(5)] == [0] * 5
    later = TrajectoryMatching(min_start_epoch=1, max_start_epoch=2, expert_epochs=3)
    assert (list(later.starts()), later.reached_epochs()) == ([1, 2], {1, 2, 4, 5})
    assert TrajectoryMatching(max_start_epoch=2).reached_epochs() == {0, 1, 2, 3}


def drawn(pairs: int, batch_size: int | None, inner_steps: int = 8, outer_step: int = 0, seed: int = 0) -> Draw:
    return sampler(pairs, 1, batch_size, inner_steps=inner_steps, seed=seed).draw(outer_step)


def test_draws_use_every_pair_equally_and_depend_on_seed_and_step_only() -> None:
    draws = [sampler(10, 4, 5, inner_steps=6, starts=range(4), seed=1).draw(step) for step in range(200)]
    assert {d.expert for d in draws} == {0, 1, 2, 3}
    assert {d.starts for d in draws} == {(0, 0), (1, 1), (2, 2), (3, 3)}
    for one in draws[:20]:
        assert [len(batch) for batch in one.batches] == [5] * 6
        assert np.bincount(torch.cat(one.batches).numpy(), minlength=10).tolist() == [3] * 10
    again = sampler(10, 4, 5, inner_steps=6, starts=range(4), seed=1).draw(7)
    assert all(torch.equal(a, b) for a, b in zip(again.batches, draws[7].batches, strict=True))
    other = sampler(10, 4, 5, inner_steps=6, starts=range(4), seed=2).draw(7)
    assert not all(torch.equal(a, b) for a, b in zip(again.batches, other.batches, strict=True))


@pytest.mark.parametrize("batch_size", [None, 7, 8, 1000])
def test_without_a_smaller_batch_every_step_uses_all_pairs(batch_size: int | None) -> None:
    assert [batch.tolist() for batch in drawn(7, batch_size, 3).batches] == [list(range(7))] * 3
    assert inner_batch_size(batch_size, 7) == 7


@given(
    pairs=st.integers(1, 400),
    batch_size=st.integers(1, 500),
    inner_steps=st.integers(1, 20),
    outer_step=st.integers(0, 10**6),
    seed=st.integers(0, 10**6),
)
@hypothesis_settings(max_examples=200, deadline=None)
def test_no_pair_is_twice_in_a_batch(pairs: int, batch_size: int, inner_steps: int, outer_step: int, seed: int) -> None:
    """A pair that occurs twice would be a negative of itself. No pair is used more than once per permutation."""
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
    # Within five standard deviations of the sum of that many independent choices.
    assert np.abs(uses - expected).max() < 5 * (expected * (1 - batch_size / pairs)) ** 0.5


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize(("pairs", "batch_size"), [(100, 24), (100, 40), (10, 7)])
def test_a_draw_is_divided_among_the_ranks(world: int, pairs: int, batch_size: int) -> None:
    """For any number of ranks the same pairs are drawn; each rank computes an equal part, mostly of pairs that it stores
    itself."""
    one = drawn(pairs, batch_size, 3, outer_step=5)
    of_ranks = [rank_rows(one.batches, rank, world) for rank in range(world)]
    for step, batch in enumerate(one.batches):
        slices = [rows.used[rows.places[step]] for rows in of_ranks]
        assert torch.equal(torch.cat(slices), batch)
        assert max(map(len, slices)) - min(map(len, slices)) <= 1
        assert torch.equal(batch, batch.unique())
    at_home = sum(
        int(((rows.used >= start) & (rows.used < stop)).sum())
        for rank, rows in enumerate(of_ranks)
        for start, stop in [rows_of(rank, world, pairs)]
    )
    assert at_home > 0.7 * sum(len(rows.used) for rows in of_ranks)
    assert all(len(rows.used) == len(torch.unique(rows.used)) for rows in of_ranks)


def test_the_pool_of_experts_grows_over_the_first_half() -> None:
    growing = sampler(experts=5, min_experts=2, outer_steps=12)
    assert [growing.pool(step) for step in range(12)] == [2, 2, 3, 3, 4, 4, 5, 5, 5, 5, 5, 5]
    assert [sampler(experts=5, outer_steps=12).pool(step) for step in (0, 11)] == [5, 5]
    many = sampler(experts=30, min_experts=10, outer_steps=100)
    assert [many.pool(step) for step in (0, 2, 3, 25, 49, 50, 99)] == [10, 10, 11, 20, 29, 30, 30]
    assert sampler(experts=5, min_experts=1, outer_steps=1).pool(0) == 1
    slow = sampler(experts=5, min_experts=2, outer_steps=10**6)
    assert {slow.draw(step).expert for step in range(50)} == {0, 1}
    ended = sampler(experts=6, min_experts=2, outer_steps=1)
    assert {ended.draw(step).expert for step in range(200)} == set(range(6))
