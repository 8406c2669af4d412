"""A source that changes between the plan and the preparation of a group stops the run."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.data.planned_groups import one_split, pairs, planned
from tests.data.sample_files import jpeg, pair, tar
from tests.data.small_sources import coco, hf, karpathy
from tests.data.tables import as_csv, as_parquet, make_images, rows, table
from vldd_dist.artifacts.keys import MANIFEST
from vldd_dist.artifacts.units import UnitReader
from vldd_dist.data.sources.base import Source
from vldd_dist.errors import DataError
from vldd_dist.events import Progress
from vldd_dist.pipeline.execute import execute
from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.store.store import Store

CHANGED = (
    r"data\.source has changed since the run was planned, or this machine has another copy .*: start the run again, or copy"
)


def prepare(unit: WorkUnit, store: Store) -> int:
    """Prepare a group; returns the number of its samples."""
    execute(unit.order(), store, lambda event: None)
    samples: int = UnitReader(store, unit.kind, unit.id).manifest.facts["samples"]
    return samples


def test_a_folder_that_has_grown(tmp_path: Path, store: Store) -> None:
    """The new image comes first, so that all positions have moved."""
    for name in "bcde":
        pair(tmp_path / f"{name}.jpg", name)
    first, second = planned(pairs(tmp_path))
    assert prepare(first, store) == 2
    pair(tmp_path / "a.jpg", "a")
    before = store.keys("units")
    with pytest.raises(DataError, match=CHANGED):
        prepare(second, store)
    assert store.keys("units") == before
    assert [prepare(unit, store) for unit in planned(pairs(tmp_path))] == [2, 2, 1]


def test_images_added_after_the_last_group_do_not_stop_a_run(tmp_path: Path, store: Store) -> None:
    for name in "bcde":
        pair(tmp_path / f"{name}.jpg", name)
    groups = planned(pairs(tmp_path))
    pair(tmp_path / "f.jpg", "f")
    assert [prepare(unit, store) for unit in groups] == [2, 2]


def test_a_tar_that_was_written_again(tmp_path: Path, store: Store) -> None:
    first, second = planned(one_split(tmp_path, 8))
    tar(tmp_path / "1.tar", {"new.jpg": jpeg(), "new.txt": b"new"})
    assert prepare(first, store) == 4
    before = store.keys("units")
    with pytest.raises(DataError, match=CHANGED):
        prepare(second, store)
    assert store.keys("units") == before


def test_a_caption_that_is_edited_while_its_group_is_prepared(tmp_path: Path, store: Store) -> None:
    """The text of the second image, after the first one has been read."""
    for name in "bcde":
        pair(tmp_path / f"{name}.jpg", name)
    first, second = planned(pairs(tmp_path))

    def edit(event: object) -> None:
        if isinstance(event, Progress):
            (tmp_path / "e.txt").write_text("edited")

    with pytest.raises(DataError, match=CHANGED):
        execute(second.order(), store, edit)
    assert not any(key.endswith(MANIFEST) for key in store.keys("units"))
    assert prepare(first, store) == 2


def a_table(folder: Path) -> tuple[Source, Path]:
    make_images(folder)
    path = as_csv(folder / "x.csv", rows())
    return table(path), path


def a_caption_file(folder: Path) -> tuple[Source, Path]:
    return coco(folder), folder / "annotations" / "captions_train2017.json"


def a_file_of_splits(folder: Path) -> tuple[Source, Path]:
    return karpathy(folder).source, folder / "data.json"


def a_folder_of_tables(folder: Path) -> tuple[Source, Path]:
    path = as_parquet(folder / "train.parquet", [{"image": jpeg(), "text": "a"}] * 3)
    return hf(folder, splits={"train": "train"}), path


@pytest.mark.parametrize("make", [a_table, a_caption_file, a_file_of_splits, a_folder_of_tables])
def test_a_file_that_is_replaced_while_a_run_is_planned(tmp_path: Path, make: Callable[[Path], tuple[Source, Path]]) -> None:
    """The groups are those of the old file, so a worker must not find the version that was planned."""
    source, path = make(tmp_path)
    parts = source.parts("train", limit=None, part_samples=2)
    path.write_bytes(path.read_bytes().replace(b"a", b"aa"))
    planned = source.describe_only("train", parts, seed=0)
    worker = type(source).model_validate(source.model_dump())
    assert worker.describe_only("train", parts, seed=0) != planned
