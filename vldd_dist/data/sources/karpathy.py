"""A Karpathy-style JSON (Flickr8k, Flickr30k, COCO splits) and a folder of images."""

import json
from collections.abc import Iterator
from hashlib import file_digest
from pathlib import Path
from typing import Any

from vldd_dist.data.shards import checked_captions
from vldd_dist.data.sources.sample import RawSample, UnreadableSample
from vldd_dist.errors import DataError
from vldd_dist.settings import DataSettings

# COCO's 'restval' pictures are trained on, as everybody does who uses these splits.
JSON_SPLITS = {"train": ("train", "restval"), "val": ("val",), "test": ("test",)}


def samples(settings: DataSettings, split: str, seed: int) -> Iterator[RawSample | UnreadableSample]:
    assert settings.images is not None
    folder, limit = Path(settings.images), getattr(settings, f"{split}_images")
    taken = 0
    for number, entry in enumerate(_entries(settings)):
        where = f"{settings.annotations}: images[{number}]"
        if _field(entry, "split", where) not in JSON_SPLITS[split]:
            continue
        if limit is not None and taken == limit:
            return
        taken += 1
        try:
            yield _raw(entry, folder, number, where)
        except DataError as error:
            yield UnreadableSample(str(folder), error)


def _raw(entry: Any, folder: Path, number: int, where: str) -> RawSample:
    sentences = _field(entry, "sentences", where)
    if not isinstance(sentences, list):
        raise DataError(f"{where}.sentences: expected a list")
    captions = [_field(sentence, "raw", f"{where}.sentences[{i}]") for i, sentence in enumerate(sentences)]
    path = folder / entry.get("filepath", "") / _field(entry, "filename", where)
    try:
        data = path.read_bytes()
    except OSError:
        raise DataError(f"{where}: the image {path} cannot be read: correct data.images or the entry") from None
    return RawSample(f"{number:08d}", str(path), str(path.parent), data, checked_captions(captions, f"{where}.sentences"))


def describe(settings: DataSettings) -> dict[str, Any]:
    path = Path(str(settings.annotations))
    if not Path(str(settings.images)).is_dir():
        raise DataError(f"data.images: {settings.images} is no folder")
    try:
        with path.open("rb") as file:
            return {"source": "karpathy", "annotations": file_digest(file, "sha256").hexdigest()}
    except OSError:
        raise DataError(f"data.annotations: {path} cannot be read: name the JSON file with splits and sentences") from None


def _entries(settings: DataSettings) -> list[Any]:
    path = Path(str(settings.annotations))
    try:
        tree = json.loads(path.read_bytes())
    except OSError:
        raise DataError(f"data.annotations: {path} cannot be read: name the JSON file with splits and sentences") from None
    except ValueError as error:
        raise DataError(f"{path}: not JSON: {error}") from None
    if not isinstance(tree, dict) or not isinstance(tree.get("images"), list):
        raise DataError(f"{path}: images: missing: a Karpathy-style file has a list under this key")
    return tree["images"]


def _field(entry: Any, name: str, where: str) -> Any:
    if not isinstance(entry, dict) or name not in entry:
        raise DataError(f"{where}.{name}: missing")
    return entry[name]
