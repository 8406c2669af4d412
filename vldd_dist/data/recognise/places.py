"""Recognising folders, and patterns of tars."""

import glob
import os
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from vldd_dist.data.files.shards import IMAGE_EXTENSIONS
from vldd_dist.data.recognise.annotations import annotation_file, is_annotation_file
from vldd_dist.data.recognise.found import Found
from vldd_dist.data.sources.base import SPLIT_OF, SPLITS
from vldd_dist.data.sources.hf_loading import SAVED, loading, split_names
from vldd_dist.errors import DataError

# Largest number of files in a folder that are examined.
MOST_FILES = 100_000


def tars(place: str) -> Found | None:
    """A tar, or a pattern of tars."""
    if not place.endswith(".tar"):
        return None
    return Found({"name": "shards", "train": place}, f"{place}: WebDataset tars")


def tars_in(folder: str) -> Found | None:
    """Tars in a folder. Their names, or the names of the folders that contain them, may indicate the splits."""
    names = _tars_of(folder)
    if not names:
        return _tars_by_folder(folder)
    # Split -> its patterns, in order and without repetitions.
    patterns_of: dict[str, dict[str, None]] = {}
    assigned = 0
    for name in names:
        word = re.match(r"[a-z]+", name.lower())
        split = SPLIT_OF.get(word[0]) if word else None
        if word and split is not None:
            # The next character must not be a letter: val*.tar would match the tars of `validation` too.
            pattern = name if name == f"{name[: len(word[0])]}.tar" else f"{name[: len(word[0])]}[!a-zA-Z]*.tar"
            patterns_of.setdefault(split, {})[os.path.join(glob.escape(folder), pattern)] = None
            assigned += 1
    if "train" not in patterns_of:
        patterns_of, assigned = {"train": {os.path.join(glob.escape(folder), "*.tar"): None}}, len(names)
    ignored = f"; {len(names) - assigned:,} whose names show no split are left out" if assigned < len(names) else ""
    return _shards(folder, {split: "::".join(patterns) for split, patterns in patterns_of.items()}, len(names), ignored)


def _tars_by_folder(folder: str) -> Found | None:
    """Tars in folders named after splits."""
    patterns: dict[str, str] = {}
    count = 0
    for name in sorted(os.listdir(folder)):
        split, inside = SPLIT_OF.get(name.lower()), os.path.join(folder, name)
        if split is not None and split not in patterns and os.path.isdir(inside) and (names := _tars_of(inside)):
            patterns[split] = os.path.join(glob.escape(inside), "*.tar")
            count += len(names)
    return _shards(folder, patterns, count, "") if "train" in patterns else None


def _tars_of(folder: str) -> list[str]:
    return sorted(name for name in os.listdir(folder) if name.endswith(".tar") and not name.startswith("."))


def _shards(folder: str, patterns: dict[str, str], count: int, ignored: str) -> Found:
    splits = [split for split in SPLITS if split in patterns]
    return Found(
        {"name": "shards"} | {split: patterns[split] for split in splits},
        f"{folder} has {count:,} tars: WebDataset or img2dataset shards; splits: {', '.join(splits)}{ignored}",
    )


def annotations_in(folder: str) -> Found | None:
    """COCO's captions_*.json in the folder or its subfolder `annotations`; otherwise the only Karpathy-style or COCO JSON."""
    for where in (folder, os.path.join(folder, "annotations")):
        names = sorted(name for name in os.listdir(where) if name.endswith(".json")) if os.path.isdir(where) else []
        captions = [name for name in names if name.startswith("captions_")]
        karpathy = [name for name in names if name.startswith(("dataset", "karpathy"))]
        if captions:
            return annotation_file(os.path.join(where, next((name for name in captions if "train" in name), captions[0])))
        if len(karpathy) > 1:
            raise DataError(f"--from {folder}: it has {', '.join(karpathy[:5])}: name one of them")
        first = karpathy[0] if karpathy else names[0] if len(names) == 1 else None
        if first is not None and is_annotation_file(os.path.join(where, first)):
            return annotation_file(os.path.join(where, first))
    return None


def library_folder(folder: str) -> Found | None:
    """A data set written by the library `datasets`, or parquet files that contain images."""
    saved = any(os.path.isfile(os.path.join(folder, name)) for name in SAVED)
    parquet = [path for path in islice(Path(folder).rglob("*.parquet"), MOST_FILES) if path.is_file()]
    metadata = [path for ending in ("csv", "jsonl", "parquet") for path in Path(folder).glob(f"*/metadata.{ending}")]
    if not saved and not metadata and not any(map(_holds_images, parquet[:1])):
        return None
    with loading(folder):
        names = split_names(folder)
    splits: dict[str, str] = {}
    # If it has both `train` and `restval`, or both `val` and `dev`, the one with our own name is used.
    for name in sorted(names, key=lambda name: name not in SPLITS):
        if name in SPLIT_OF:
            splits.setdefault(SPLIT_OF[name], name)
    if "train" not in splits:
        raise DataError(f"--from {folder}: the data set has no split `train`: it has {', '.join(names)}")
    source = {"name": "hf", "path": folder, "splits": {split: splits[split] for split in SPLITS if split in splits}}
    return Found(source, f"{folder} is a data set of the library `datasets`; splits: {', '.join(names)}")


def images_with_texts(folder: str) -> Found | None:
    """Images, each with a .txt or .caption file beside it."""
    images = list(islice(_images(folder), MOST_FILES))
    count = f"{len(images):,}" if len(images) < MOST_FILES else f"more than {MOST_FILES:,}"
    files = {ending: sum(path.with_suffix(f".{ending}").is_file() for path in images) for ending in ("txt", "caption")}
    extension = max(files, key=files.__getitem__)
    if files[extension]:
        setting = {} if extension == "txt" else {"caption_extension": extension}
        what = f"{folder} has {count} images, {files[extension]:,} of them with a .{extension} file beside"
        return Found({"name": "folder", "path": folder, **setting}, what)
    if images:
        raise DataError(f"--from {folder}: {count} images, and no captions: add a table, a JSON or .txt files beside them")
    return None


def _images(folder: str) -> Iterator[Path]:
    """The images that the source `folder` reads, which ignores hidden files and folders."""
    for where, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.rpartition(".")[2].lower() in IMAGE_EXTENSIONS and not name.startswith("."):
                yield Path(where, name)


def _holds_images(path: Path) -> bool:
    from vldd_dist.data.sources.tables.parquet import Parquet

    try:
        table = Parquet(str(path))
        return any(table.holds_images(name) for name in table.columns)
    except DataError:
        return False
