"""Recognising folders, and patterns of tars."""

import os
import re
from itertools import islice
from pathlib import Path
from typing import Any

from vldd_dist.data.recognise.annotations import annotation_file
from vldd_dist.data.recognise.found import Found
from vldd_dist.data.shards import IMAGE_EXTENSIONS
from vldd_dist.data.sources.base import SPLIT_OF, SPLITS
from vldd_dist.data.sources.hf_loading import SAVED, loading, split_names
from vldd_dist.errors import DataError

# Files that are looked at in a folder with many.
MOST_FILES = 100_000


def tars(place: str) -> Found | None:
    """One tar, or the pattern of several."""
    if not place.endswith(".tar"):
        return None
    return Found({"name": "shards", "train": place}, f"{place}: WebDataset tars")


def tars_in(folder: str) -> Found | None:
    """Tars, of which the names may say the splits."""
    names = sorted(name for name in os.listdir(folder) if name.endswith(".tar"))
    if not names:
        return None
    source: dict[str, Any] = {"name": "shards"}
    for name in names:
        word = re.match(r"[a-z]+", name.lower())
        split = SPLIT_OF.get(word[0]) if word else None
        if split is not None:
            source.setdefault(split, os.path.join(folder, f"{name[: len(word[0]) if word else 0]}*.tar"))
    if "train" not in source:
        source = {"name": "shards", "train": os.path.join(folder, "*.tar")}
    source = {key: source[key] for key in ("name", *SPLITS) if key in source}
    return Found(
        source, f"{folder} has {len(names):,} tars: WebDataset or img2dataset shards; splits: {', '.join([*source][1:])}"
    )


def annotations_in(folder: str) -> Found | None:
    """COCO's captions_*.json, here or in a folder `annotations`; or the only JSON."""
    for where in (folder, os.path.join(folder, "annotations")):
        names = sorted(name for name in os.listdir(where) if name.endswith(".json")) if os.path.isdir(where) else []
        captions = [name for name in names if name.startswith("captions_")]
        first = next((name for name in captions if "train" in name), captions[0] if captions else None)
        if first is None and len(names) == 1 and names[0].startswith(("dataset", "karpathy")):
            first = names[0]
        if first is not None:
            return annotation_file(os.path.join(where, first))
    return None


def library_folder(folder: str) -> Found | None:
    """What `datasets` saved, or parquet files with images in them."""
    saved = any(os.path.isfile(os.path.join(folder, name)) for name in SAVED)
    parquet = [path for path in islice(Path(folder).rglob("*.parquet"), MOST_FILES) if path.is_file()]
    metadata = list(Path(folder).glob("*/metadata.*"))
    if not saved and not metadata and not any(map(_holds_images, parquet[:1])):
        return None
    with loading(folder):
        names = split_names(folder)
    splits = {SPLIT_OF[name]: name for name in names if name in SPLIT_OF}
    if "train" not in splits:
        raise DataError(f"--from {folder}: a data set without a split `train`: it has {', '.join(names)}")
    source = {"name": "hf", "path": folder, "splits": {split: splits[split] for split in SPLITS if split in splits}}
    return Found(source, f"{folder} is a data set of the library `datasets`; splits: {', '.join(names)}")


def images_with_texts(folder: str) -> Found | None:
    """Images with a .txt or .caption file beside each."""
    images: list[Path] = []
    for path in islice(Path(folder).rglob("*"), MOST_FILES):
        if path.suffix.lower().removeprefix(".") in IMAGE_EXTENSIONS and not path.name.startswith("."):
            images.append(path)
    for extension in ("txt", "caption"):
        beside = sum(path.with_suffix(f".{extension}").is_file() for path in images)
        if beside:
            setting = {} if extension == "txt" else {"caption_extension": extension}
            what = f"{folder} has {len(images):,} images, {beside:,} of them with a .{extension} file beside"
            return Found({"name": "folder", "path": folder, **setting}, what)
    if images:
        raise DataError(f"--from {folder}: {len(images):,} images, and no captions: no table, JSON or .txt files beside them")
    return None


def _holds_images(path: Path) -> bool:
    from vldd_dist.data.sources.tables.parquet import Parquet

    try:
        table = Parquet(str(path))
        return any(table.holds_images(name) for name in table.columns)
    except DataError:
        return False
