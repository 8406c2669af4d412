"""Prototypes compared with their definition, on known clusters."""

from itertools import permutations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from vldd_dist.coresets.candidates import Candidates
from vldd_dist.coresets.prototypes import Prototypes
from vldd_dist.seeding import numpy_generator


def clustered(image: list[int], text: list[int], agreement: Tensor) -> Candidates:
    """Pairs whose image and text are in these clusters; the order of their cosines is that of `agreement`."""
    noise = torch.randn(2, len(image), 9, generator=torch.Generator().manual_seed(0)) / 1e5
    axes, common = torch.eye(9), torch.eye(9)[8]
    return Candidates(
        len(image),
        axes[image] + 0.3 * common + noise[0],
        axes[[4 + number for number in text]] + 0.3 * agreement[:, None] * common + noise[1],
    )


def expected(image: list[int], text: list[int], kept: set[int], clusters: int) -> list[set[int]]:
    """The prototypes by definition: every assignment of image clusters to text clusters is tried."""
    cells = {(i, j): {k for k in kept if (image[k], text[k]) == (i, j)} for i in range(clusters) for j in range(clusters)}
    shared = {to: sum(len(cells[i, to[i]]) for i in range(clusters)) for to in permutations(range(clusters))}
    second, first = sorted(shared.values())[-2:]
    assert second < first
    best = max(shared, key=lambda to: shared[to])
    return [cells[i, best[i]] for i in range(clusters)]


@pytest.mark.parametrize("dropped", [0.0, 0.2])
def test_the_pairs_that_most_clusters_share(dropped: float) -> None:
    generator = torch.Generator().manual_seed(5)
    image, text = (torch.randint(0, 4, (60,), generator=generator).tolist() for _ in range(2))
    agreement = torch.randperm(60, generator=generator) / 100
    given = clustered(image, text, agreement)
    kept = set(agreement.argsort(descending=True)[: 60 - int(dropped * 60)].tolist())
    cosines = functional.cosine_similarity(given.image, given.text)
    assert kept == set(cosines.argsort(descending=True)[: len(kept)].tolist())
    found = Prototypes(name="prototypes", dropped=dropped).groups(given, 4, numpy_generator(0))
    assert sorted(sorted(group.tolist()) for group in found) == sorted(map(sorted, expected(image, text, kept, 4)))
    for group in found:
        joint = given.joint()[group]
        assert (joint - joint.mean(dim=0)).norm(dim=1).argmin() == 0


def test_without_a_shared_pair_a_prototype_is_the_free_pair_nearest_to_both_centres() -> None:
    """Each of the two remaining clusters has one pair, whose other half is in the large cluster."""
    image, text = [0] * 10 + [0, 1], [0] * 10 + [1, 0]
    given = clustered(image, text, torch.ones(12))
    found = Prototypes(name="prototypes", dropped=0).groups(given, 2, numpy_generator(0))
    large, single = sorted((group.tolist() for group in found), key=len, reverse=True)
    assert sorted(large) == list(range(10))
    features = given.joint().double()
    centre = torch.cat([features[11, :9], features[10, 9:]])
    assert single == [min((10, 11), key=lambda k: float((features[k] - centre).norm()))]
