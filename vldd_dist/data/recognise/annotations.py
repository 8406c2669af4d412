"""Recognising JSON files of annotations, and finding their images."""

import os
from collections.abc import Iterator
from typing import Any

from vldd_dist.data.files.json_files import read_json
from vldd_dist.data.recognise.found import Found
from vldd_dist.data.recognise.image_folders import LOOKED_FOR, folder_of_images
from vldd_dist.data.sources.base import SPLITS
from vldd_dist.errors import DataError

# Number of entries by which a list is recognised.
LOOKED_AT = 20


def annotation_file(path: str) -> Found | None:
    """A Karpathy-style JSON file, or a COCO file together with the files of the other splits beside it."""
    if not path.lower().endswith(".json"):
        return None
    tree = _tree(path)
    if _is_karpathy(tree):
        folder = _folder(path, list(_names(tree)), "images")
        return Found(
            {"name": "karpathy", "annotations": path, "images": folder},
            f"{path} is a Karpathy-style JSON of {len(tree['images']):,} images, which are in {folder}",
        )
    if _is_coco(tree):
        return _coco(path, tree)
    raise DataError(f"--from {path}: neither a Karpathy-style nor a COCO JSON: write one JSON object per line, as .jsonl")


def is_annotation_file(path: str) -> bool:
    """Whether a JSON file is a Karpathy-style or COCO file. Raises DataError if it cannot be read."""
    tree = _tree(path)
    return _is_karpathy(tree) or _is_coco(tree)


def _tree(path: str) -> Any:
    return read_json(path, f"--from {path}")


def _is_karpathy(tree: Any) -> bool:
    return isinstance(tree, dict) and any("sentences" in entry for entry in _first(tree, "images"))


def _is_coco(tree: Any) -> bool:
    return isinstance(tree, dict) and all(isinstance(tree.get(name), list) for name in ("images", "annotations"))


def _first(tree: dict[str, Any], name: str) -> Iterator[dict[str, Any]]:
    """The objects among the first entries of the list with this key; nothing if there is no such list."""
    value = tree.get(name)
    entries = value[:LOOKED_AT] if isinstance(value, list) else []
    return (entry for entry in entries if isinstance(entry, dict))


def _coco(path: str, tree: dict[str, Any]) -> Found:
    """The source `coco` with the given file, and with those of the other splits, whose names differ only in the name of the
    split: captions_train2017.json and captions_val2017.json."""
    if tree["annotations"] and not _has_captions(tree):
        raise DataError(f"--from {path}: its annotations have no captions: name captions_*.json, not instances or keypoints")
    files = files_of_splits(path)
    split, *others = files
    trees = {split: (path, tree)}
    for other in others:
        beside = files[other]
        if os.path.isfile(beside) and _is_coco(other_tree := _tree(beside)) and _has_captions(other_tree):
            trees[other] = beside, other_tree
    if "train" not in trees:
        # If there is only a validation file, it is used for training.
        trees["train"] = trees.pop(split)
    source: dict[str, Any] = {"name": "coco"}
    folders: dict[str, str] = {}
    for name in SPLITS:
        if name in trees:
            file, content = trees[name]
            folders[name] = _folder(file, list(_names(content)), f"{name}_images")
            source |= {name: file, f"{name}_images": folders[name]}
    splits = ", ".join(f"{name} (images in {folder})" for name, folder in folders.items())
    return Found(source, f"{path} is a COCO caption file; splits: {splits}")


def _has_captions(tree: dict[str, Any]) -> bool:
    return any("caption" in entry for entry in _first(tree, "annotations"))


def files_of_splits(path: str) -> dict[str, str]:
    """Split -> path of its COCO file, beginning with the given one; the others need not exist. A file whose name shows no split
    is that of train, and has none beside it."""
    folder, name = os.path.split(path)
    split = next((split for split in SPLITS if split in name), "train")
    beside = {other: os.path.join(folder, name.replace(split, other)) for other in SPLITS}
    return {split: path} | {other: file for other, file in beside.items() if file != path}


def _names(tree: dict[str, Any]) -> Iterator[str]:
    """Paths of the images, from COCO's `file_name` or Karpathy's `filepath` and `filename`; entries without one are skipped."""
    for entry in tree["images"]:
        values = [entry.get(key) for key in ("filepath", "filename", "file_name")] if isinstance(entry, dict) else []
        if parts := [value for value in values if isinstance(value, str)]:
            yield os.path.join(*parts)


def _folder(path: str, names: list[str], setting: str) -> str:
    if "://" in path:
        raise DataError(
            f"--from {path}: its images can be found only on this machine: write the description, see docs/own-data.md"
        )
    return folder_of_images(path, names[:LOOKED_FOR], lambda: names, f"data.source.{setting}")
