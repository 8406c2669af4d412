"""The search for images that are in two splits, in fingerprints of many groups."""

from collections import Counter
from itertools import combinations
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from vldd_dist.data.preparation import merge
from vldd_dist.data.preparation.merge import count_duplicates
from vldd_dist.data.preparation.prepare import NAMELESS
from vldd_dist.data.sources.base import SPLITS

GROUPS = 20
# Images of a group in each split.
SIZES = {"train": 30, "val": 5, "test": 4}


def group_of(generator: torch.Generator) -> Any:
    """A reader of a group with few different images, half of which have no name."""
    fingerprints = {}
    for split, size in SIZES.items():
        names = torch.randint(-(2**62), 2**62, (size,), generator=generator)
        names[::2] = NAMELESS
        fingerprints[split] = {"images": torch.randint(-200, 200, (size,), generator=generator), "names": names}
    splits = {split: SimpleNamespace(shards=[SimpleNamespace(images=size)]) for split, size in SIZES.items()}
    return SimpleNamespace(facts_as=lambda _: SimpleNamespace(splits=splits), fingerprints=fingerprints)


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    generator = torch.Generator().manual_seed(0)
    monkeypatch.setattr(merge, "read_fingerprints", lambda group, split: group.fingerprints[split])
    return [group_of(generator) for _ in range(GROUPS)]


def test_images_in_two_splits_are_counted_over_all_groups(groups: list[Any]) -> None:
    images = {split: [int(image) for group in groups for image in group.fingerprints[split]["images"]] for split in SPLITS}
    wanted = {f"{one}, {other}": sum(image in images[other] for image in images[one]) for one, other in combinations(SPLITS, 2)}
    assert all(wanted.values())
    assert count_duplicates(groups) == wanted


def test_a_split_is_not_sorted_again_for_each_group(groups: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: Counter[int] = Counter()

    def record(name: str) -> None:
        function = getattr(np, name)

        def counted(values: Any, *others: Any, **options: Any) -> Any:
            sizes.update(len(each) for each in (values, *others))
            return function(values, *others, **options)

        monkeypatch.setattr(np, name, counted)

    # Each of them sorts all its arguments.
    for name in ("isin", "sort", "unique"):
        record(name)
    count_duplicates(groups)
    for split in ("val", "test"):
        # Once for its names, to find those that are repeated.
        assert sizes[GROUPS * SIZES[split]] == 1


def test_copies_in_other_groups_are_counted(groups: list[Any], caplog: pytest.LogCaptureFixture) -> None:
    """A tar is a group, and a data set with a row for each caption has the copies of an image in any of them."""
    count_duplicates(groups)
    for split in SPLITS:
        images = [int(image) for group in groups for image in group.fingerprints[split]["images"]]
        repeated = len(images) - len(set(images))
        assert f"data: {repeated} images of {split} equal an earlier image of the split: " in caplog.text
