"""Sources of a few images, written into a folder, and what a source says of them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.data.sample_files import jpeg, tar
from vldd_dist.config.base import choose
from vldd_dist.config.sections.data import DataSettings
from vldd_dist.data.sources.base import Source
from vldd_dist.data.sources.sample import RawSample, UnreadableSample
from vldd_dist.plugins import SOURCES


def karpathy(folder: Path, change: Callable[[dict[str, Any]], None] = lambda tree: None) -> DataSettings:
    """Four images, of the splits train, restval, val and test, with two captions each.

    Args:
        change: applied to the tree of the JSON file.
    """
    (folder / "images").mkdir()
    entries = []
    for number, split in enumerate(["train", "restval", "val", "test"]):
        (folder / "images" / f"{number}.jpg").write_bytes(jpeg())
        sentences = [{"raw": f"image {number} caption {i}"} for i in range(2)]
        entries.append({"filename": f"{number}.jpg", "split": split, "sentences": sentences})
    tree = {"images": entries}
    change(tree)
    (folder / "data.json").write_text(json.dumps(tree))
    return DataSettings(
        source={"name": "karpathy", "annotations": str(folder / "data.json"), "images": str(folder / "images")}, image_size=96
    )


def shards(folder: Path, members: dict[str, bytes] | None = None, **changes: Any) -> DataSettings:
    """A tar of two images for each split, or the given members in that of the training split."""
    good = {"a.jpg": jpeg(), "a.json": b'{"caption": "one"}', "b.png": jpeg(), "b.txt": b"two"}
    for split in ("train", "val", "test"):
        tar(folder / f"{split}.tar", members if members is not None and split == "train" else good)
    urls = {split: str(folder / f"{split}.tar") for split in ("train", "val", "test")}
    urls |= {name: changes.pop(name) for name in urls if name in changes}
    return DataSettings(**{"source": {"name": "shards", **urls}, "image_size": 16} | changes)


COCO_NAMES = {"2014": "COCO_{split}2014_{id:012d}.jpg", "2017": "{id:012d}.jpg"}


def captions_file(folder: Path, split: str, ids: list[int], year: str = "2017") -> dict[str, Any]:
    """The images of a split, and the tree of its caption file, whose annotations are not in the order of the images."""
    images, annotations = [], []
    (folder / f"{split}{year}").mkdir(parents=True)
    for number in ids:
        name = COCO_NAMES[year].format(split=split, id=number)
        (folder / f"{split}{year}" / name).write_bytes(jpeg((20 * number, 0, 0)))
        images.append({"id": number, "file_name": name, "width": 40, "height": 30, "license": 1, "coco_url": "http://x"})
    for view in range(5):
        for number in reversed(ids):
            annotations.append({"id": 100 * view + number, "image_id": number, "caption": f"photo {number}, view {view}\n"})
    return {"info": {"year": int(year)}, "licenses": [], "images": images, "annotations": annotations}


def coco(folder: Path, year: str = "2017", change: Callable[[dict[str, Any]], None] = lambda tree: None) -> Source:
    """Four training images and two for validation, in folders and caption files named like those of COCO.

    Args:
        change: applied to the tree of the training split's caption file.
    """
    (folder / "annotations").mkdir()
    settings = {}
    for split, ids in (("train", [9, 3, 7, 5]), ("val", [4, 2])):
        tree = captions_file(folder, split, ids, year)
        if split == "train":
            change(tree)
        path = folder / "annotations" / f"captions_{split}{year}.json"
        path.write_text(json.dumps(tree))
        settings |= {split: str(path), f"{split}_images": str(folder / f"{split}{year}")}
    source: Source = choose(SOURCES, {"name": "coco", **settings})
    return source


HF_SPLITS = {"train": "train", "val": "validation"}


def hf(path: Path | str, **settings: Any) -> Source:
    source: Source = choose(SOURCES, {"name": "hf", "path": str(path), "splits": HF_SPLITS, **settings})
    return source


def identity(source: Source) -> list[dict[str, Any]]:
    """The identity of the source's training split, computed by a new source object, as in another process."""
    fresh = type(source).model_validate(source.model_dump())
    return [fresh.describe("train", part, seed=0) for part in fresh.parts("train", limit=None, part_samples=100)]


def training_samples(description: DataSettings) -> list[RawSample | UnreadableSample]:
    """The samples of the training split."""
    source = description.source
    parts = source.parts("train", limit=None, part_samples=100)
    return [sample for part in parts for sample in source.samples("train", part, image_size=224, seed=0)]
