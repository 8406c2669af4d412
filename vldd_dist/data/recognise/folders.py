"""Recognising folders, and patterns of tars."""

import glob
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

from vldd_dist.data.files.image_names import has_image_extension
from vldd_dist.data.recognise.annotations import annotation_file, files_of_splits, is_annotation_file
from vldd_dist.data.recognise.found import Found
from vldd_dist.data.recognise.tables import table_names
from vldd_dist.data.sources.base import SPLIT_OF, SPLIT_WORD, SPLITS, split_called
from vldd_dist.data.sources.hf_loading import SAVED, loading, split_names
from vldd_dist.errors import DataError, UnusableHere

# Largest number of files in a folder that are examined.
MOST_FILES = 100_000


def tars(location: str) -> Found | None:
    """A tar, or a pattern of tars."""
    if not location.endswith(".tar"):
        return None
    return Found({"name": "shards", "train": location}, f"{location}: WebDataset tars")


def tars_in(folder: str) -> Found | None:
    """Tars in a folder. Their names, or the names of the folders that contain them, may indicate the splits."""
    names = _tars_of(folder)
    if not names:
        return _tars_by_folder(folder)
    words = [(name, word) for name in names if (word := _split_word(folder, name)) is not None]
    if not words:
        return _shards(folder, {"train": [os.path.join(glob.escape(folder), "*.tar")]}, len(names), "")
    patterns = _patterns(folder, words)
    if "train" not in patterns:
        raise DataError(
            f"--from {folder}: the names of its tars show the splits {', '.join(patterns)}, but not train: write the "
            "description with data.source.train, see docs/own-data.md"
        )
    count = len(names) - len(words)
    return _shards(folder, patterns, len(names), f"; {count:,} whose names show no split are left out" if count else "")


def _patterns(folder: str, words: list[tuple[str, re.Match[str]]]) -> dict[str, list[str]]:
    """Split -> patterns of its tars; each tar matches one of them.

    Args:
        words: names of tars, each with the only name of a split in it.
    """
    # (name of a split as written, whether the name of the tar begins or ends with it) -> what precedes it.
    beginnings: dict[tuple[str, bool, bool], set[str]] = {}
    for name, word in words:
        key = (word[0], word.start() == 0, name[word.end() :] == ".tar")
        beginnings.setdefault(key, set()).add(name[: word.start()])
    patterns: dict[str, list[str]] = {}
    for (word_as_written, _, is_last), before in beginnings.items():
        # If the tars begin differently, for example with a number each, one pattern is for all of them.
        start = glob.escape(before.pop()) if len(before) == 1 else "*[!a-zA-Z]"
        # The next character must not be a letter: val*.tar would match the tars of `validation` too.
        end = ".tar" if is_last else "[!a-zA-Z]*.tar"
        pattern = os.path.join(glob.escape(folder), f"{start}{word_as_written}{end}")
        patterns.setdefault(SPLIT_OF[word_as_written.lower()], []).append(pattern)
    return patterns


def _split_word(folder: str, name: str) -> re.Match[str] | None:
    """The name of a split in a tar's name; None if there is none. Raises DataError if there are several."""
    found = list(SPLIT_WORD.finditer(name))
    if len(found) > 1:
        raise DataError(
            f"--from {folder}: the name of {name} shows more than one split: rename it, or write the description, see "
            "docs/own-data.md"
        )
    return found[0] if found else None


def _tars_by_folder(folder: str) -> Found | None:
    """Tars in folders named after splits."""
    patterns: dict[str, list[str]] = {}
    count = 0
    # A folder and a symbolic link to it, for example `validation` and `val`, are taken once.
    taken: set[str] = set()
    for name in sorted(os.listdir(folder)):
        split, inside = split_called(name), os.path.join(folder, name)
        if split is None or not os.path.isdir(inside) or os.path.realpath(inside) in taken:
            continue
        if names := _tars_of(inside):
            taken.add(os.path.realpath(inside))
            patterns.setdefault(split, []).append(os.path.join(glob.escape(inside), "*.tar"))
            count += len(names)
    return _shards(folder, patterns, count, "") if "train" in patterns else None


def _tars_of(folder: str) -> list[str]:
    return sorted(name for name in os.listdir(folder) if name.endswith(".tar") and not name.startswith("."))


def _shards(folder: str, patterns: dict[str, list[str]], count: int, ignored: str) -> Found:
    # A glob's characters are escaped; for these there is no escape.
    if any(sign in pattern for of_split in patterns.values() for pattern in of_split for sign in ("{", "}", "::")):
        raise DataError(
            f"--from {folder}: braces and '::' in the names of folders and tars would be read as a pattern: rename them"
        )
    splits = [split for split in SPLITS if split in patterns]
    return Found(
        {"name": "shards"} | {split: "::".join(patterns[split]) for split in splits},
        f"{folder} has {count:,} tars: WebDataset or img2dataset shards; splits: {', '.join(splits)}{ignored}",
    )


def annotations_in(folder: str) -> Found | None:
    """COCO's captions_*.json in the folder or its subfolder `annotations`; otherwise the only Karpathy-style or COCO JSON.

    Raises:
        DataError: there are several, of which one would be left out.
    """
    for where in (folder, os.path.join(folder, "annotations")):
        names = sorted(name for name in os.listdir(where) if name.endswith(".json")) if os.path.isdir(where) else []
        captions = [name for name in names if name.startswith("captions_")]
        candidates = [name for name in names if name.startswith(("dataset", "karpathy"))]
        if captions:
            first = next((name for name in captions if "train" in name), captions[0])
            of_splits = files_of_splits(first).values()
            others = [name for name in candidates if is_annotation_file(os.path.join(where, name))]
            candidates = [first, *(name for name in captions if name not in of_splits), *others]
        elif not candidates and len(names) == 1:
            candidates = names
        if len(candidates) > 1:
            raise DataError(f"--from {folder}: it has {', '.join(candidates[:5])}: name one of them")
        if candidates and (captions or is_annotation_file(os.path.join(where, candidates[0]))):
            found = annotation_file(os.path.join(where, candidates[0]))
            tables = table_names(folder)
            return replace(found, what=f"{found.what}; not used: {', '.join(tables[:5])}") if found and tables else found
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
    return _library_data_set(folder, names, f"{folder} is a data set of the library `datasets`")


def hub_data_set(name: str) -> Found:
    """A data set on the hub. If its splits cannot be read, which the sentence says, only `train` is used."""
    what = f"{name} does not exist here: it is taken for a data set on the hub"
    try:
        with loading(name):
            names = split_names(name)
    except (DataError, UnusableHere):
        return Found({"name": "hf", "path": name}, f"{what}, whose splits cannot be read: name them in data.source.splits")
    return _library_data_set(name, names, what)


def _library_data_set(path: str, names: list[str], what: str) -> Found:
    splits: dict[str, str] = {}
    # If it has both `train` and `restval`, or both `val` and `dev`, the one with our own name is used.
    for name in sorted(names, key=lambda name: name not in SPLITS):
        split = split_called(name)
        if split is not None:
            splits.setdefault(split, name)
    if "train" not in splits:
        raise DataError(
            f"--from {path}: the data set has the splits {', '.join(names)}, but not train: write the description with "
            "data.source.splits, see docs/own-data.md"
        )
    ordered = {split: splits[split] for split in SPLITS if split in splits}
    left_out = [name for name in names if name not in ordered.values()]
    rest = f"; left out: {', '.join(left_out)}" if left_out else ""
    return Found({"name": "hf", "path": path, "splits": ordered}, f"{what}; splits: {', '.join(ordered.values())}{rest}")


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
            if has_image_extension(name) and not name.startswith("."):
                yield Path(where, name)


def _holds_images(path: Path) -> bool:
    from vldd_dist.data.sources.tables.parquet import Parquet

    try:
        table = Parquet(str(path))
        return any(table.holds_images(name) for name in table.columns)
    except DataError:
        return False
