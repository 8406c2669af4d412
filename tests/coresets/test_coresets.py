"""Coresets compared with slow reference implementations."""

from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from vldd_dist.config.base import choose
from vldd_dist.coresets import facility_location
from vldd_dist.coresets.base import groups
from vldd_dist.coresets.candidates import Candidates
from vldd_dist.errors import ConfigError
from vldd_dist.plugins import CORESETS
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


def select(method: str, given: Candidates, count: int, generator: np.random.Generator) -> torch.Tensor:
    """The real pair of each selected pair; the first one for a mean of several."""
    return torch.cat([group[:1] for group in groups(choose(CORESETS, method), given, count, generator)])


class Products(TorchDispatchMode):
    """Records the shape of each result of a matrix product, and the number of other results that are as large as `size`."""

    def __init__(self, size: int = 0) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []
        self.size, self.large = size, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten.mm.default, torch.ops.aten.mv.default):
            self.shapes.append(tuple(result.shape))
        elif isinstance(result, torch.Tensor) and result.numel() >= self.size:
            self.large += 1
        return result


@pytest.mark.parametrize("method", list(CORESETS))
def test_real_pairs_are_means_of_one(method: str) -> None:
    plugin = choose(CORESETS, method)
    found = groups(plugin, candidates(), 12, numpy_generator("x"))
    assert torch.equal(torch.stack([group[0] for group in found]), plugin.select(candidates(), 12, numpy_generator("x")))
    assert (max(len(group) for group in found) > 1) == plugin.averages


@pytest.mark.parametrize("method", list(CORESETS))
def test_distinct_repeatable_and_bounded(method: str) -> None:
    chosen = [select(method, candidates(), 12, numpy_generator("x")) for _ in range(2)]
    assert torch.equal(*chosen)
    assert len(set(chosen[0].tolist())) == 12
    assert sorted(select(method, candidates(), 30, numpy_generator("x")).tolist()) == list(range(30))
    with pytest.raises(ConfigError, match=r"distill.pairs \(31\) is more than the training images \(30\)"):
        select(method, candidates(), 31, numpy_generator("x"))


def test_herding_is_the_greedy_mean() -> None:
    features = candidates().joint().double().numpy()
    mean, chosen = features.mean(0), []
    for _ in range(10):
        free = [i for i in range(30) if i not in chosen]
        chosen.append(min(free, key=lambda i: np.linalg.norm(mean - features[[*chosen, i]].mean(0))))
    assert select("herding", candidates(), 10, numpy_generator("x")).tolist() == chosen


def test_k_center_is_farthest_first() -> None:
    found = select("k_center", candidates(), 8, numpy_generator("x")).tolist()
    features = candidates().joint().double().numpy()
    chosen = found[:1]
    while len(chosen) < 8:
        distances = [min(np.linalg.norm(features[i] - features[c]) for c in chosen) for i in range(30)]
        chosen.append(int(np.argmax(distances)))
    assert found == chosen


def test_k_center_copies_no_features_to_choose_a_pair() -> None:
    """For COCO a copy has gigabytes."""
    copies = []
    for count in (2, 12):
        with Products(size=30 * 12) as products:
            select("k_center", candidates(), count, numpy_generator("x"))
        copies.append(products.large)
    assert copies[0] == copies[1]


def duplicates(distinct: int) -> Candidates:
    """Ten pairs, of which the first are repeated."""
    rows, given = torch.arange(10) % distinct, candidates()
    assert given.image is not None
    assert given.text is not None
    return Candidates(10, given.image[rows], given.text[rows], torch.zeros(10), torch.ones(10, dtype=torch.bool))


# k-means finds fewer distinct points than clusters.
@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
@pytest.mark.parametrize(("distinct", "count"), [(9, 10), (8, 8), (1, 4)])
@pytest.mark.parametrize("method", list(CORESETS))
def test_equal_pairs_are_no_reason_to_select_a_pair_twice(method: str, distinct: int, count: int) -> None:
    found = groups(choose(CORESETS, method), duplicates(distinct), count, numpy_generator("x"))
    assert len(found) == count
    assert all(len(group) for group in found)
    members = torch.cat(found).tolist()
    assert len(set(members)) == len(members)


def test_k_means_takes_the_pair_in_the_middle_of_each_cluster() -> None:
    """Clusters are those of images and texts together; neither alone separates the four clusters."""
    noise = torch.randn(2, 40, 6, generator=torch.Generator().manual_seed(0)) / 20
    of_image, of_text = torch.arange(40) // 20, torch.arange(40) // 10 % 2
    given = Candidates(40, torch.eye(6)[of_image] + noise[0], torch.eye(6)[of_text] + noise[1])
    features = given.joint().double()
    middles = [int((features - features[rows].mean(0)).norm(dim=1).argmin()) for rows in torch.arange(40).split(10)]
    for draw in range(5):
        assert sorted(select("k_means", given, 4, numpy_generator(draw)).tolist()) == middles


@pytest.mark.parametrize("columns", [(1, 1), (1, 4), (3, 3), (32, 256)])
@pytest.mark.parametrize("seed", range(3))
def test_facility_location_is_the_greedy_maximum_of_the_whole_matrix(
    seed: int, columns: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in zip(("FIRST_COLUMNS", "MOST_COLUMNS"), columns, strict=True):
        monkeypatch.setattr(facility_location, name, value)
    given = candidates(40, seed)
    similarity = (given.joint().double() @ given.joint().double().T).numpy()
    chosen: list[int] = []
    for _ in range(12):
        free = [i for i in range(40) if i not in chosen]
        chosen.append(max(free, key=lambda j: similarity[:, [*chosen, j]].max(axis=1).sum()))
    assert select("facility_location", given, 12, numpy_generator("x")).tolist() == chosen


def test_a_round_of_facility_location_that_needs_most_columns_computes_many_at_once() -> None:
    given = candidates(1_000)
    with Products() as products:
        select("facility_location", given, 2, numpy_generator("x"))
    # The other products are with a single pair.
    first, *second = [shape[1] for shape in products.shapes if len(shape) == 2]
    assert first == 32
    assert second[:5] == [32, 64, 128, 256, 256]
    assert sum(second) <= 1_000 + 256


def test_facility_location_reaches_its_share_of_the_best_subset() -> None:
    """For a monotone submodular function the greedy choice reaches a share of 1 - 1/e of the optimum."""
    given = candidates(10)
    similarity = (given.joint().double() @ given.joint().double().T).numpy() + 2

    def value(chosen: tuple[int, ...]) -> float:
        return float(similarity[:, list(chosen)].max(axis=1).sum())

    found = value(tuple(select("facility_location", given, 3, numpy_generator("x")).tolist()))
    subsets = list(combinations(range(10), 3))
    assert (1 - np.exp(-1)) * max(map(value, subsets)) <= found <= max(map(value, subsets))
    assert found > np.mean([value(subset) for subset in subsets])


def test_clip_score_takes_the_pairs_that_agree_best() -> None:
    given = candidates()
    assert given.image is not None
    assert given.text is not None
    cosines = [float(i @ t / i.norm() / t.norm()) for i, t in zip(given.image, given.text, strict=True)]
    expected = sorted(range(30), key=lambda index: -cosines[index])[:10]
    assert select("clip_score", given, 10, numpy_generator("x")).tolist() == expected


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


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_k_center_is_within_twice_the_best_radius(count: int, seed: int) -> None:
    """The radius, the largest distance of a pair from its nearest chosen one, is compared with those of all subsets."""
    given = candidates(10, seed)
    features = given.joint().double()
    distances = (features[:, None] - features[None]).norm(dim=2)

    def radius(chosen: list[int]) -> float:
        return float(distances[:, chosen].min(dim=1).values.max())

    best = min(radius(list(subset)) for subset in combinations(range(10), count))
    for draw in range(5):
        found = select("k_center", given, count, numpy_generator(draw)).tolist()
        assert best <= radius(found) <= 2 * best


def test_k_center_begins_anywhere() -> None:
    assert len({int(select("k_center", candidates(), 1, numpy_generator(draw))[0]) for draw in range(20)}) > 5


def test_herdings_mean_is_nearer_than_that_of_random_pairs() -> None:
    given = candidates()
    features = given.joint().double()

    def distance(method: str, seed: int) -> float:
        return float((features[select(method, given, 6, numpy_generator(seed))].mean(0) - features.mean(0)).norm())

    assert distance("herding", 0) < min(distance("random", seed) for seed in range(20))


def test_both_features_weigh_alike_whatever_their_norms() -> None:
    given = candidates()
    assert given.image is not None
    assert given.text is not None
    joint = Candidates(30, given.image * 100, given.text / 100).joint()
    torch.testing.assert_close(joint, candidates().joint())
    assert joint.shape == (30, 12)
    torch.testing.assert_close(joint[:, :6].norm(dim=1), torch.ones(30))
    torch.testing.assert_close(joint[:, 6:], given.text / given.text.norm(dim=1, keepdim=True))
