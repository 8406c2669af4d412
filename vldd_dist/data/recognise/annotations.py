"""Recognising JSON files of annotations, and where their images lie."""

import json
import os
from typing import Any

from vldd_dist.data.range_reader import open_shard
from vldd_dist.data.recognise.found import Found, folder_of
from vldd_dist.data.shards import reading
from vldd_dist.data.sources.base import SPLITS
from vldd_dist.errors import DataError

FILES = 3


def annotation_file(path: str) -> Found | None:
    """A Karpathy-style JSON, or one of COCO's with those of the other splits beside it."""
    if not path.lower().endswith(".json"):
        return None
    with reading(f"--from {path}"), open_shard(path) as file:
        raw = file.read()
    try:
        tree = json.loads(raw)
    except (ValueError, RecursionError):
        raise DataError(f"--from {path}: not JSON, or nested too deeply") from None
    images = tree.get("images") if isinstance(tree, dict) else None
    if isinstance(images, list) and isinstance(tree.get("annotations"), list):
        return _coco(path)
    if isinstance(images, list) and images and isinstance(images[0], dict) and "sentences" in images[0]:
        names = [os.path.join(str(entry.get("filepath", "")), str(entry.get("filename"))) for entry in images[:FILES]]
        return Found(
            {"name": "karpathy", "annotations": path, "images": _folder(path, names)},
            f"{path} is a Karpathy-style JSON of {len(images):,} images",
        )
    raise DataError(f"--from {path}: neither a Karpathy-style nor a COCO JSON: write one JSON object a line, as .jsonl")


def _coco(path: str) -> Found:
    """The file that is named says what the others are called: captions_train2017.json and captions_val2017.json."""
    split = next((split for split in SPLITS if split in os.path.basename(path)), "train")
    source: dict[str, Any] = {"name": "coco"}
    for other in SPLITS:
        beside = _as(path, split, other)
        if other == split or (beside != path and os.path.isfile(beside)):
            source |= {other: beside, f"{other}_images": _folder(beside, _file_names(beside))}
    if "train" not in source:
        # A validation file alone is what there is to train on.
        source |= {"train": source.pop(split), "train_images": source.pop(f"{split}_images")}
    return Found(source, f"{path} is a caption file of COCO's; splits: {', '.join(s for s in SPLITS if s in source)}")


def _as(path: str, split: str, other: str) -> str:
    return os.path.join(os.path.dirname(path), os.path.basename(path).replace(split, other))


def _file_names(path: str) -> list[str]:
    with open(path, "rb") as file:
        tree = json.load(file)
    return [str(entry.get("file_name")) for entry in tree["images"][:FILES] if isinstance(entry, dict)]


def _folder(path: str, names: list[str]) -> str:
    near = os.path.dirname(path) or "."
    folder = folder_of(names, near)
    if folder is None:
        raise DataError(f"{path}: it names images such as {names[:1]}, which are not found in {near} or in a folder near it")
    return folder
