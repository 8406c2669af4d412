"""Sources whose other splits are taken out of the training images, and the groups of samples that a plan makes of a source."""

from pathlib import Path
from typing import Any

from tests.data.sample_files import jpeg, tar
from vldd_dist.config.experiment import Experiment
from vldd_dist.config.sections.data import DataSettings
from vldd_dist.pipeline.graphs.experiment import Graph
from vldd_dist.pipeline.work_unit import WorkUnit


def one_split(folder: Path, images: int, **changes: Any) -> DataSettings:
    """A source of two tars with training images only."""
    for number in range(2):
        members = {}
        for image in range(number, images, 2):
            members |= {f"{image:04d}.jpg": jpeg((image % 256, image // 256, 7)), f"{image:04d}.txt": f"image {image}".encode()}
        tar(folder / f"{number}.tar", members)
    return DataSettings(**{"source": {"name": "shards", "train": f"{folder}/*.tar"}, "image_size": 16} | changes)


def pairs(folder: Path) -> DataSettings:
    """A folder of images with texts, in groups of two images."""
    split = {"val": 0.3, "test": 0.3}
    return DataSettings(source={"name": "folder", "path": str(folder)}, split=split, group_images=2, image_size=16)


def planned(settings: DataSettings) -> list[WorkUnit]:
    """The groups of a new plan."""
    dataset = Graph(Experiment(name="changed", data=settings, distill={"pairs": [2]})).unit("dataset")
    return [unit for unit in dataset.inputs.values() if unit.kind == "shard_group"]
