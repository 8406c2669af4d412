"""A source that changes between the plan and the preparation of a group stops the run."""

from pathlib import Path

import pytest

from tests.data.preparation.test_groups import one_split
from tests.data.prepared.test_dataset import jpeg, tar
from tests.data.test_folder import pair
from vldd_dist.artifacts.units import UnitReader
from vldd_dist.config.experiment import Experiment
from vldd_dist.config.sections.data import DataSettings
from vldd_dist.errors import DataError
from vldd_dist.pipeline.execute import execute
from vldd_dist.pipeline.graphs.experiment import make_graph
from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.store.store import Store

CHANGED = (
    r"data\.source has changed since the run was planned, or this machine has another copy .*: start the run again, or copy"
)


def pairs(folder: Path) -> DataSettings:
    return DataSettings(source={"name": "folder", "path": str(folder)}, group_images=2, image_size=16)


def planned(settings: DataSettings) -> list[WorkUnit]:
    """The groups of a new plan."""
    dataset = make_graph(Experiment(name="changed", data=settings, distill={"pairs": [1]})).unit("dataset")
    return [unit for unit in dataset.inputs.values() if unit.kind == "shard_group"]


def prepare(unit: WorkUnit, store: Store) -> int:
    """Prepare a group; returns the number of its samples."""
    execute(unit.order(), store, lambda event: None)
    samples: int = UnitReader(store, unit.kind, unit.id).facts["samples"]
    return samples


def test_a_folder_that_has_grown(tmp_path: Path, store: Store) -> None:
    """The new image comes first, so that all positions have moved."""
    for name in "bcde":
        pair(tmp_path / f"{name}.jpg", name)
    first, second = planned(pairs(tmp_path))
    assert prepare(first, store) == 2
    pair(tmp_path / "a.jpg", "a")
    before = store.list("units")
    with pytest.raises(DataError, match=CHANGED):
        prepare(second, store)
    assert store.list("units") == before
    assert [prepare(unit, store) for unit in planned(pairs(tmp_path))] == [2, 2, 1]


def test_images_behind_a_group_do_not_stop_it(tmp_path: Path, store: Store) -> None:
    for name in "bcde":
        pair(tmp_path / f"{name}.jpg", name)
    groups = planned(pairs(tmp_path))
    pair(tmp_path / "f.jpg", "f")
    assert [prepare(unit, store) for unit in groups] == [2, 2]


def test_a_tar_that_was_written_again(tmp_path: Path, store: Store) -> None:
    first, second = planned(one_split(tmp_path, 8))
    tar(tmp_path / "1.tar", {"new.jpg": jpeg(), "new.txt": b"new"})
    assert prepare(first, store) == 4
    before = store.list("units")
    with pytest.raises(DataError, match=CHANGED):
        prepare(second, store)
    assert store.list("units") == before
