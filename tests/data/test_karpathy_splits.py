"""Names of splits in a Karpathy-style file."""

from pathlib import Path
from typing import Any

import pytest

from tests.data.small_sources import karpathy
from tests.data.tables import read
from vldd_dist.data.sources.sample import RawSample, UnreadableSample


@pytest.mark.parametrize(
    ("name", "split"),
    [("Train", "train"), ("restval", "train"), ("dev", "val"), ("valid", "val"), (" validation", "val"), ("TEST", "test")],
)
def test_usual_names_of_a_split_in_any_case(tmp_path: Path, name: str, split: str) -> None:
    def only(tree: dict[str, Any]) -> None:
        tree["images"] = [tree["images"][0] | {"split": name}]

    source = karpathy(tmp_path, only).source
    found = {other: read(source, other) for other in ("train", "val", "test")}
    assert {other: len(samples) for other, samples in found.items()} == {"train": 0, "val": 0, "test": 0} | {split: 1}
    assert isinstance(found[split][0], RawSample)


def test_an_unknown_name_makes_a_bad_training_sample(tmp_path: Path) -> None:
    def unknown(tree: dict[str, Any]) -> None:
        tree["images"][2]["split"] = "x"

    source = karpathy(tmp_path, unknown).source
    (bad,) = [sample for sample in read(source) if isinstance(sample, UnreadableSample)]
    assert "images[2].split: there is no split 'x': write one of train, val, test" in str(bad.error)
    assert read(source, "val") == []
