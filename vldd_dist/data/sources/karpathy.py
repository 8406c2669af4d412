"""A Karpathy-style JSON (Flickr8k, Flickr30k, COCO splits) and a folder of images."""

import json
from collections.abc import Iterator
from hashlib import file_digest
from pathlib import Path, PurePath
from typing import Any

from vldd_dist.config.data import DataSettings
from vldd_dist.control_characters import one_line
from vldd_dist.data.regular_files import open_regular
from vldd_dist.data.shards import checked_captions
from vldd_dist.data.sources.sample import RawSample, UnreadableSample
from vldd_dist.data.tars import MAX_MEMBER_BYTES
from vldd_dist.errors import DataError

# COCO's 'restval' pictures are trained on, as everybody does who uses these splits.
JSON_SPLITS = {"train": ("train", "restval"), "val": ("val",), "test": ("test",)}

# Number in the list, the entry, and its name in sentences.
Entry = tuple[int, Any, str]


def samples(settings: DataSettings, split: str, seed: int) -> Iterator[RawSample | UnreadableSample]:
    folder = Path(str(settings.images))
    for number, entry, where in _taken(_entries(settings), settings, split):
        try:
            yield _raw(entry, folder, number, where)
        except DataError as error:
            yield UnreadableSample(str(folder), error)


def _taken(entries: list[Any], settings: DataSettings, split: str) -> Iterator[Entry]:
    """Of the split, up to the number asked for. An entry that does not say its split is taken for a (bad) training picture."""
    limit, taken = getattr(settings, f"{split}_images"), 0
    for number, entry in enumerate(entries):
        named = entry.get("split") if isinstance(entry, dict) else None
        if (named if isinstance(named, str) else "train") not in JSON_SPLITS[split]:
            continue
        if limit is not None and taken == limit:
            return
        taken += 1
        yield number, entry, f"{settings.annotations}: images[{number}]"


def _raw(entry: Any, folder: Path, number: int, where: str) -> RawSample:
    _text(entry, "split", where)
    sentences = _field(entry, "sentences", where)
    if not isinstance(sentences, list):
        raise DataError(f"{where}.sentences: expected a list")
    captions = [_field(sentence, "raw", f"{where}.sentences[{i}]") for i, sentence in enumerate(sentences)]
    path = _path(entry, folder, where)
    source, container = one_line(str(path)), one_line(str(path.parent))
    try:
        with open_regular(path) as file:
            data = file.read(MAX_MEMBER_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no name that a file can have"
        raise DataError(f"{where}: the image {source} cannot be read ({reason}): correct data.images or the entry") from None
    if len(data) > MAX_MEMBER_BYTES:
        raise DataError(f"{where}: the image {source} is larger than {MAX_MEMBER_BYTES >> 20} MiB: remove the entry")
    return RawSample(f"{number:08d}", source, container, data, checked_captions(captions, f"{where}.sentences"))


def _path(entry: Any, folder: Path, where: str) -> Path:
    """Raises DataError for one that leads out of the folder; links within it are its owner's own."""
    name = _text(entry, "filename", where)
    within = PurePath(_text(entry, "filepath", where) if "filepath" in entry else "", name)
    if within.is_absolute() or ".." in within.parts:
        raise DataError(f"{where}: {one_line(str(within))} leads out of data.images: name the pictures within that folder")
    return folder / within


def describe(settings: DataSettings) -> dict[str, Any]:
    """The JSON's sha256 stands for the pictures, too: a cluster that sees none of them finds the prepared unit by it."""
    if not Path(str(settings.images)).is_dir():
        raise DataError(f"data.images: {settings.images} is no folder")
    path = Path(str(settings.annotations))
    try:
        with open_regular(path) as file:
            return {"source": "karpathy", "annotations": file_digest(file, "sha256").hexdigest()}
    except (OSError, ValueError):
        raise _unreadable(path) from None


def _entries(settings: DataSettings) -> list[Any]:
    path = Path(str(settings.annotations))
    try:
        with open_regular(path) as file:
            tree = json.load(file)
    except OSError:
        raise _unreadable(path) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON, or nested too deeply: {one_line(str(error))}") from None
    if not isinstance(tree, dict) or not isinstance(tree.get("images"), list):
        raise DataError(f"{path}: images: missing: a Karpathy-style file has a list under this key")
    return tree["images"]


def _unreadable(path: Path) -> DataError:
    return DataError(f"data.annotations: {path} cannot be read: name the JSON file with splits and sentences")


def _field(entry: Any, name: str, where: str) -> Any:
    if not isinstance(entry, dict) or name not in entry:
        raise DataError(f"{where}.{name}: missing")
    return entry[name]


def _text(entry: Any, name: str, where: str) -> str:
    value = _field(entry, name, where)
    if not isinstance(value, str):
        raise DataError(f"{where}.{name}: expected a text, not {type(value).__name__}")
    return value
