"""Recognising JSON files of annotations, and where their images lie."""

import json
import os
from collections.abc import Iterator
from typing import Any

from vldd_dist.data.files.range_reader import open_shard
from vldd_dist.data.files.shards import reading
from vldd_dist.data.recognise.found import LOOKED_FOR, Found, folder_of_images
from vldd_dist.data.sources.base import SPLITS
from vldd_dist.errors import DataError

# Entries by which a list is known.
LOOKED_AT = 20


def annotation_file(path: str) -> Found | None:
    """A Karpathy-style JSON, or one of COCO's with those of the other splits beside it."""
    if not path.lower().endswith(".json"):
        return None
    tree = _tree(path)
    if _is_karpathy(tree):
        names = list(_names(tree))
        return Found(
            {"name": "karpathy", "annotations": path, "images": _folder(path, names)},
            f"{path} is a Karpathy-style JSON of {len(tree['images']):,} images",
        )
    if _is_coco(tree):
        return _coco(path, tree)
    raise DataError(f"--from {path}: neither a Karpathy-style nor a COCO JSON: write one JSON object a line, as .jsonl")


def is_annotation_file(path: str) -> bool:
    """Whether a JSON file is one of these. Raises DataError when it cannot be read."""
    tree = _tree(path)
    return _is_karpathy(tree) or _is_coco(tree)


def _tree(path: str) -> Any:
    with reading(f"--from {path}"), open_shard(path) as file:
        raw = file.read()
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        raise DataError(f"--from {path}: not JSON, or nested too deeply") from None


def _is_karpathy(tree: Any) -> bool:
    return isinstance(tree, dict) and any("sentences" in entry for entry in _first(tree, "images"))


def _is_coco(tree: Any) -> bool:
    return isinstance(tree, dict) and all(isinstance(tree.get(name), list) for name in ("images", "annotations"))


def _first(tree: dict[str, Any], name: str) -> Iterator[dict[str, Any]]:
    """Objects among the first entries of a list; nothing where there is no list."""
    entries = tree.get(name)
    return (entry for entry in (entries[:LOOKED_AT] if isinstance(entries, list) else []) if isinstance(entry, dict))


def _coco(path: str, tree: dict[str, Any]) -> Found:
    """The file that is named says what the others are called: captions_train2017.json and captions_val2017.json."""
    if tree["annotations"] and not _has_captions(tree):
        raise DataError(f"--from {path}: its annotations have no captions: name captions_*.json, not instances or keypoints")
    split = next((split for split in SPLITS if split in os.path.basename(path)), "train")
    trees = {split: (path, tree)}
    for other in SPLITS:
        beside = _as(path, split, other)
        if beside != path and os.path.isfile(beside) and _is_coco(read := _tree(beside)) and _has_captions(read):
            trees[other] = beside, read
    if "train" not in trees:
        # A validation file alone is what there is to train on.
        trees["train"] = trees.pop(split)
    source: dict[str, Any] = {"name": "coco"}
    for each in SPLITS:
        if each in trees:
            of_split, read = trees[each]
            source |= {each: of_split, f"{each}_images": _folder(of_split, list(_names(read)))}
    return Found(source, f"{path} is a caption file of COCO's; splits: {', '.join(s for s in SPLITS if s in source)}")


def _has_captions(tree: dict[str, Any]) -> bool:
    return any("caption" in entry for entry in _first(tree, "annotations"))


def _as(path: str, split: str, other: str) -> str:
    return os.path.join(os.path.dirname(path), os.path.basename(path).replace(split, other))


def _names(tree: dict[str, Any]) -> Iterator[str]:
    """Paths of the images, by COCO's `file_name` or Karpathy's `filepath` and `filename`; entries without one are left out."""
    for entry in tree["images"]:
        parts = [entry.get(key) for key in ("filepath", "filename", "file_name")] if isinstance(entry, dict) else []
        if found := [part for part in parts if isinstance(part, str)]:
            yield os.path.join(*found)


def _folder(path: str, names: list[str]) -> str:
    if "://" in path:
        raise DataError(f"--from {path}: where its images lie is only looked for on this machine: see docs/own-data.md")
    return folder_of_images(path, names[:LOOKED_FOR], lambda: names)
