"""A JSON file of Karpathy's splits (Flickr8k, Flickr30k, COCO) and a folder of images."""

import os
import posixpath
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from itertools import islice
from typing import Annotated, Any

from pydantic import Field

from vldd_dist.config.base import LOCATION
from vldd_dist.control_characters import one_line
from vldd_dist.data.files.captions import checked_captions
from vldd_dist.data.files.image_folder import ImageFolder
from vldd_dist.data.files.json_files import read_json
from vldd_dist.data.files.pinned import Pinned
from vldd_dist.data.files.reading import reading
from vldd_dist.data.sources.base import Part, Samples, Source, check_split, parts_of, split_called
from vldd_dist.data.sources.sample import RawSample, UnreadableSample
from vldd_dist.errors import DataError, MissingData
from vldd_dist.store.user_files.digests import sha256_of


class Karpathy(Source):
    """A JSON file with splits and captions, and the folder of its images."""

    annotations: Annotated[str, LOCATION] = Field(description="Path or URL of the JSON file with splits and captions.")
    images: Annotated[str, LOCATION] = Field(
        description="Folder of the images that the JSON file names. The JSON file identifies the prepared data: they are used "
        "again if only the images change or move."
    )

    def parts(self, split: str, *, limit: int | None, part_samples: int) -> list[Part]:
        count = self.known_count(split)
        return parts_of(count if limit is None else min(count, limit), part_samples)

    def samples(self, split: str, part: Part, *, image_size: int, seed: int) -> Samples:
        folder = ImageFolder(self.images, "data.source.images")
        for number, entry in islice(_of_split(self._file.read(), split), part.start, part.stop):
            try:
                yield _raw(entry, folder, number, f"{self.annotations}: images[{number}]")
            except DataError as error:
                yield UnreadableSample(self.images, error)

    def describe(self, split: str, part: Part, *, seed: int) -> dict[str, Any]:
        """The JSON file identifies the images too, so that a cluster without access to them finds the prepared unit."""
        # Unlike `Path.is_dir`, it does not raise if a folder cannot be entered.
        if not os.path.isdir(self.images):
            kind = DataError if os.path.exists(self.images) else MissingData
            raise kind(f"data.source.images: {self.images} is not a folder: correct the path")
        return {"annotations": self._file.version}

    @property
    def _where(self) -> str:
        return f"data.source.annotations: {self.annotations}"

    @cached_property
    def _file(self) -> Pinned[list[Any]]:
        """The entries of the JSON file. They are not kept: those of COCO need most of a gigabyte."""
        return Pinned(self._digest, self._entries)

    def _digest(self) -> str:
        # The same for a file and its copy in a bucket, so that a cluster finds what was prepared from the file.
        with reading(self._where):
            return sha256_of(self.annotations)

    def known_count(self, split: str) -> int:
        """From the JSON file."""
        return self._counts[split]

    @cached_property
    def _counts(self) -> Counter[str]:
        """The number of entries of each split. It is kept, because a plan asks for it many times."""
        return Counter(map(_split_of, self._file.read()))

    def _entries(self) -> list[Any]:
        path, tree = self.annotations, read_json(self.annotations, self._where)
        if isinstance(tree, dict) and "annotations" in tree:
            raise DataError(f"{path}: this is a COCO file, with `annotations` and without splits: use the source `coco`")
        if not isinstance(tree, dict) or not isinstance(tree.get("images"), list):
            raise DataError(f"{path}: images: missing: name a Karpathy-style file, which has a list under this key")
        entries: list[Any] = tree["images"]
        return entries


def _of_split(entries: list[Any], split: str) -> Iterator[tuple[int, Any]]:
    """(index in the list, entry) of each entry of a split."""
    return ((number, entry) for number, entry in enumerate(entries) if _split_of(entry) == split)


def _split_of(entry: Any) -> str:
    """The split of an entry. One without a valid split counts as a (bad) training image."""
    name = entry.get("split") if isinstance(entry, dict) else None
    return (split_called(name) if isinstance(name, str) else None) or "train"


def _raw(entry: Any, folder: ImageFolder, number: int, where: str) -> RawSample:
    check_split(_text(entry, "split", where), f"{where}.split")
    sentences = _field(entry, "sentences", where)
    if not isinstance(sentences, list):
        raise DataError(f"{where}.sentences: expected a list")
    captions = [_field(sentence, "raw", f"{where}.sentences[{i}]") for i, sentence in enumerate(sentences)]
    name = posixpath.join(_text(entry, "filepath", where) if "filepath" in entry else "", _text(entry, "filename", where))
    try:
        identity = folder.relative(name)
        data = folder.read(identity)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    path = folder.path(identity)
    return RawSample(
        f"{number:08d}",
        one_line(path),
        one_line(posixpath.dirname(path)),
        data,
        checked_captions(captions, f"{where}.sentences"),
        one_line(identity),
    )


def _field(entry: Any, name: str, where: str) -> Any:
    if not isinstance(entry, dict) or name not in entry:
        raise DataError(f"{where}.{name}: missing")
    return entry[name]


def _text(entry: Any, name: str, where: str) -> str:
    value = _field(entry, name, where)
    if not isinstance(value, str):
        raise DataError(f"{where}.{name}: expected a text, not {type(value).__name__}")
    return value
