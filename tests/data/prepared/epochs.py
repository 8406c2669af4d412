"""The batches of one epoch, and their comparison."""

from typing import Any

import torch

from tests.data.prepared.prepared_sets import numbered
from vldd_dist.config.sections.experts import AugmentSettings
from vldd_dist.data.prepared.batches.stream import EpochStream, PairBatch, StreamSettings
from vldd_dist.data.prepared.dataset import Dataset


def epoch(dataset: Dataset, **changes: Any) -> list[PairBatch]:
    """The batches of epoch 2 of the training split, with seed 1 unless `changes` say otherwise."""
    settings: dict[str, Any] = {"batch_size": 4, "augment": AugmentSettings()}
    settings |= {name: changes.pop(name) for name in ("augment", "readers", "captions") if name in changes}
    return list(
        EpochStream(numbered(dataset), dataset, "train", StreamSettings(**settings), **{"seed": 1, "epoch": 2} | changes)
    )


def assert_same(one: list[PairBatch], other: list[PairBatch]) -> None:
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.entries, b.entries)
        assert torch.equal(a.texts, b.texts)
