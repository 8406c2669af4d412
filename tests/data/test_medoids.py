"""k-means medoids on known clusters."""

import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vldd_dist.data.medoids import medoids

CLUSTERS = 4


def clusters(seed: int) -> torch.Tensor:
    """(40, 5): four clusters far apart, ten rows each."""
    generator = torch.Generator().manual_seed(seed)
    return (10 * torch.eye(5)[:CLUSTERS]).repeat_interleave(10, 0) + torch.randn(40, 5, generator=generator)


@pytest.mark.parametrize("seed", range(5))
def test_each_cluster_gives_the_row_nearest_to_its_mean(seed: int) -> None:
    features = clusters(seed)
    means = features.reshape(CLUSTERS, 10, 5).mean(dim=1)
    nearest = {int((features - mean).norm(dim=1).argmin()) for mean in means}
    assert set(medoids(features, CLUSTERS, seed)) == nearest


def test_a_choice_depends_on_the_seed_alone() -> None:
    features = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    assert medoids(features, 12, 3) == medoids(features, 12, 3)
    assert len({tuple(medoids(features, 12, seed)) for seed in range(5)}) == 5


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
def test_equal_rows_are_each_near_one_centre_only() -> None:
    assert sorted(medoids(torch.ones(5, 3), 5, 0)) == list(range(5))


def test_the_search_for_the_medoids_does_not_copy_the_features(monkeypatch: pytest.MonkeyPatch) -> None:
    features = torch.randn(2000, 512, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def fitted(points: np.ndarray) -> SimpleNamespace:
        tracemalloc.start()
        return SimpleNamespace(cluster_centers_=points[:8].copy())

    monkeypatch.setattr("sklearn.cluster.KMeans", lambda *_, **__: SimpleNamespace(fit=fitted))
    try:
        assert medoids(features, 8, 0) == list(range(8))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < features.nbytes / 2
