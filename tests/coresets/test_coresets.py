"""Coresets against slow references."""

import numpy as np
import pytest
import torch

from vldd_dist.coresets import METHODS, Candidates, select
from vldd_dist.errors import ConfigError
from vldd_dist.seeding import numpy_generator


def candidates(pictures: int = 30, seed: int = 0) -> Candidates:
    generator = torch.Generator().manual_seed(seed)
    return Candidates(
        pictures,
        torch.randn(pictures, 6, generator=generator),
        torch.randn(pictures, 6, generator=generator),
        torch.randint(0, 4, (pictures,), generator=generator),
        torch.rand(pictures, generator=generator) < 0.8,
    )


@pytest.mark.parametrize("method", METHODS)
def test_distinct_repeatable_and_bounded(method: str) -> None:
    chosen = [select(method, candidates(), 12, numpy_generator("x")) for _ in range(2)]
    assert torch.equal(*chosen)
    assert len(set(chosen[0].tolist())) == 12
    assert sorted(select(method, candidates(), 30, numpy_generator("x")).tolist()) == list(range(30))
    with pytest.raises(ConfigError, match=r"distill.pairs \(31\) is more than the training pictures \(30\)"):
        select(method, candidates(), 31, numpy_generator("x"))


def test_herding_is_the_greedy_mean() -> None:
    features = candidates().joint().double().numpy()
    mean, chosen = features.mean(0), []
    for _ in range(10):
        free = [i for i in range(30) if i not in chosen]
        chosen.append(min(free, key=lambda i: np.linalg.norm(mean - features[[*chosen, i]].mean(0))))
    assert select("herding", candidates(), 10, numpy_generator("x")).tolist() == chosen


def test_k_center_is_farthest_first_and_within_twice_the_best_radius() -> None:
    found = select("k_center", candidates(), 8, numpy_generator("x")).tolist()
    features = candidates().joint().double().numpy()
    chosen = found[:1]
    while len(chosen) < 8:
        distances = [min(np.linalg.norm(features[i] - features[c]) for c in chosen) for i in range(30)]
        chosen.append(int(np.argmax(distances)))
    assert found == chosen


def test_k_center_survives_duplicates() -> None:
    same = Candidates(5, torch.ones(5, 3), torch.ones(5, 3))
    assert len(set(select("k_center", same, 5, numpy_generator("x")).tolist())) == 5


def test_forgetting_prefers_never_learned_then_most_events() -> None:
    given = candidates()
    assert given.events is not None
    assert given.ever_learned is not None
    order = select("forgetting", given, 30, numpy_generator("x"))
    scores = torch.where(given.ever_learned, given.events, 99)[order].tolist()
    assert scores == sorted(scores, reverse=True)
    other = select("forgetting", given, 30, numpy_generator("y"))
    assert not torch.equal(order, other), "ties are broken by seed"


def test_random_draws_differ_by_seed() -> None:
    assert not torch.equal(*(select("random", candidates(), 10, numpy_generator(s)) for s in ("a", "b")))
