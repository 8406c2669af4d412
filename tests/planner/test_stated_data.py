"""A plan works without the data on every source, and says what it assumes."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.data.small_sources import shards
from vldd_dist.data.files.url_patterns import expand
from vldd_dist.errors import DataError, MissingData
from vldd_dist.planner.plan import Plan, plan
from vldd_dist.plugins import SOURCES
from vldd_dist.testing.experiments.tiny_experiment import experiment

# Source -> its settings, in which `absent` stands for a folder that does not exist.
ABSENT: dict[str, dict[str, Any]] = {
    "karpathy": {"annotations": "absent/data.json", "images": "absent"},
    "coco": {"train": "absent/captions.json", "train_images": "absent"},
    "table": {"path": "absent/table.parquet", "split_column": "split"},
    "folder": {"path": "absent"},
    "shards": {"train": "absent/{0..2}.tar"},
    "hf": {"path": "absent"},
}


def planned(name: str, folder: Path, *overrides: str) -> Plan:
    """The plan of a small experiment, whose numbers of images are stated."""
    source = json.dumps({"name": name} | ABSENT[name]).replace("absent", str(folder / "absent"))
    return plan(experiment(f"data.source={source}", *overrides), None)


def test_every_source_that_reads_files_is_listed() -> None:
    assert {*ABSENT, "scenes"} == set(SOURCES)


@pytest.mark.parametrize("name", ABSENT)
def test_a_plan_without_the_data_uses_the_numbers_in_the_description(name: str, tmp_path: Path) -> None:
    notes = planned(name, tmp_path).notes
    assert any(note.startswith("The data cannot be read here, so the plan uses the numbers of images") for note in notes)
    with pytest.raises(DataError, match=r"correct the (path|pattern) \(or set data.train_images, val_images and test_images"):
        planned(name, tmp_path, "data.val_images=null")


def test_a_source_of_which_only_a_part_is_there_is_refused_as_by_a_run(tmp_path: Path) -> None:
    """A plan for other data would hide a mistyped name."""
    settings = shards(tmp_path).source.model_dump(mode="json")
    settings["val"] = str(tmp_path / "mistyped.tar")
    with pytest.raises(DataError, match=r"mistyped\.tar"):
        plan(experiment(f"data.source={json.dumps(settings)}"), None)


def test_limits_that_stand_for_unknown_numbers_of_images_are_named(tmp_path: Path) -> None:
    """The number of samples in tars is known only when they are read."""
    source = json.dumps(shards(tmp_path).source.model_dump(mode="json"))
    beginning = "The numbers of images are not known until the data are prepared; the most that they can be is assumed: "
    for change, named in (
        ([], ["data.train_images, data.val_images, data.test_images"]),
        # No size of the data is assumed.
        (["data.test_images=null"], []),
    ):
        notes = plan(experiment(f"data.source={source}", *change), None).notes
        assert [note.removeprefix(beginning) for note in notes if note.startswith(beginning)] == named


def test_a_pattern_that_matches_nothing_is_missing_data(tmp_path: Path) -> None:
    with pytest.raises(MissingData, match="matches no shard"):
        expand(f"{tmp_path}/*.tar")
