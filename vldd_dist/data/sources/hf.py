"""A data set on the Hugging Face hub, or a folder that the library `datasets` can load."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property, lru_cache, partial
from hashlib import sha256
from itertools import combinations, islice
from typing import Annotated, Any

from pydantic import Field, model_validator

from vldd_dist.config.base import LOCATION
from vldd_dist.control_characters import one_line
from vldd_dist.data.files.image_folder import ImageFolder
from vldd_dist.data.files.pinned import Pinned
from vldd_dist.data.files.tars import MAX_MEMBER_BYTES
from vldd_dist.data.files.versions import listing, would_list
from vldd_dist.data.sources.base import SPLITS, Part, Samples, Source, parts_of
from vldd_dist.data.sources.columns import CAPTION_COLUMNS, IMAGE_COLUMNS, captions_in, find_column
from vldd_dist.data.sources.hf_loading import Rows, commit_of, load, loading
from vldd_dist.data.sources.sample import RawSample, UnreadableSample
from vldd_dist.errors import DataError, message_of
from vldd_dist.store.user_files.opening import open_seekable
from vldd_dist.store.user_files.reachability import check_reachable

# Zip archives with images that a source keeps open.
ARCHIVES_OPEN = 4


class HuggingFace(Source):
    """A data set on the Hugging Face hub, or a folder that the library `datasets` can load. It is streamed: only the files that
    are needed are downloaded, and none is kept. Each row is an image; its captions are a text or a list of texts."""

    path: Annotated[str, LOCATION] = Field(
        description="OWNER/NAME on the hub, or a folder of images or parquet files or one written by `save_to_disk`."
    )
    config: str | None = Field(None, description="Name of the data set's configuration; null: its default.")
    # The commit that it means identifies the data: who writes this commit here later finds the same data.
    revision: Annotated[str | None, LOCATION] = Field(None, description="Commit, branch or tag; null: the main branch.")
    splits: dict[str, str] = Field(
        {"train": "train"},
        description="The data set's names of our splits train, val and test, for example {train: train, val: validation}.",
    )
    image_column: str | None = Field(
        None, description=f"Column of the images; null: the only column called one of {', '.join(IMAGE_COLUMNS)}."
    )
    caption_columns: Annotated[list[str], Field(min_length=1)] | None = Field(
        None, description=f"Columns of the captions; null: the only column called one of {', '.join(CAPTION_COLUMNS)}."
    )
    identity_column: str | None = Field(
        None, description="Column whose value identifies an image in all splits, for example its number."
    )
    image_folder: Annotated[str | None, LOCATION] = Field(
        None,
        description="Folder that image paths in the data set are relative to; null: `path`. The files in `path` (on the hub: "
        "the commit) identify the prepared data: they are used again if only the images in this folder change or move.",
    )

    @model_validator(mode="after")
    def _are_different_splits_with_train(self) -> "HuggingFace":
        if "train" not in self.splits or not set(self.splits) <= set(SPLITS):
            raise ValueError("splits: give the data set's name for `train`, and for `val` and `test` if it has them")
        for first, second in combinations(self.own_splits(), 2):
            if (name := self.splits[first]) == self.splits[second]:
                raise ValueError(f"splits: {first} and {second} are both {name!r}: leave {second} out, and data.split makes it")
        return self

    def own_splits(self) -> tuple[str, ...]:
        return tuple(split for split in SPLITS if split in self.splits)

    def parts(self, split: str, *, limit: int | None, part_samples: int) -> list[Part]:
        """Positions count the files of a stream, or the rows of a saved data set. With a limit, all files of a stream are one
        part, because a file's number of rows is known only after reading it."""
        rows = self._rows[split].content
        if not rows.streamed:
            return parts_of(rows.positions if limit is None else min(rows.positions, limit), part_samples)
        if limit is not None:
            return [Part(0, rows.positions, limit)]
        files_per_part = 1 if rows.count is None else max(1, rows.positions * part_samples // max(rows.count, 1))
        # Their positions count files, whose numbers of rows are not known.
        return [replace(part, samples=None) for part in parts_of(rows.positions, files_per_part)]

    def samples(self, split: str, part: Part, *, image_size: int, seed: int) -> Samples:
        rows = self._rows[split].content
        columns = self._columns(rows)
        for key, location, row in islice(self._between(rows, part, columns[0]), part.limit):
            where = f"{self.path}: {self.splits[split]}: {location}"
            try:
                captions = captions_in(columns[1:], [row.get(name) for name in columns[1:]])
                yield RawSample(key, where, self.path, self._image(row.get(columns[0])), captions, self._identity(row))
            except DataError as error:
                yield UnreadableSample(self.path, DataError(f"{where}: {error}"))

    def describe(self, split: str, part: Part, *, seed: int) -> dict[str, Any]:
        """The commit on the hub; for a folder, a digest of the names, sizes and times of the last change of its files that are
        not hidden."""
        return {"version": self._version}

    def known_count(self, split: str) -> int | None:
        """From the data set's metadata, which some streams lack."""
        return self._rows[split].content.count

    def would_include(self, folder: str) -> bool:
        return os.path.isdir(self.path) and would_list(self.path, folder)

    @cached_property
    def _version(self) -> str:
        if not os.path.isdir(self.path):
            return f"commit {self._commit}"
        with loading(self.path):
            return f"files {sha256(repr(sorted(listing(self.path).items())).encode()).hexdigest()}"

    @cached_property
    def _commit(self) -> str:
        return commit_of(self.path, self.revision)

    @cached_property
    def _rows(self) -> dict[str, Pinned[Rows]]:
        """Split -> its rows. All splits have one version, that of the data set."""
        return {split: Pinned(lambda: self._version, partial(self._load, name)) for split, name in self.splits.items()}

    def _load(self, name: str) -> Rows:
        """The rows of the split that the data set calls `name`: on the hub those of the commit, because the branch may move."""
        return load(self.path, self.config, self.revision if os.path.isdir(self.path) else self._commit, name)

    def _columns(self, rows: Rows) -> list[str]:
        """The image column, followed by the caption columns."""
        image = find_column(rows.columns, "image_column", self.image_column, IMAGE_COLUMNS, self.path)
        names: list[str | None] = [*self.caption_columns] if self.caption_columns else [None]
        captions = [find_column(rows.columns, "caption_columns", name, CAPTION_COLUMNS, self.path) for name in names]
        if self.identity_column is not None:
            find_column(rows.columns, "identity_column", self.identity_column, (), self.path)
        return [image, *captions]

    def _between(self, rows: Rows, part: Part, image_column: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """(key, location, row) of each row of a part. Raises as `loading`."""
        iterator = rows.between(part.start, part.stop, image_column)
        while True:
            with loading(self.path):
                row = next(iterator, None)
            if row is None:
                return
            yield row

    def _image(self, cell: Any) -> bytes:
        """The encoded image of a cell, which is {bytes, path}, bytes or a path."""
        data = cell.get("bytes") if isinstance(cell, dict) else cell
        path = cell.get("path") if isinstance(cell, dict) else cell
        if isinstance(data, bytes):
            return data
        if not isinstance(path, str):
            raise DataError("no image")
        archive, separator, path_in_folder = path.rpartition("::")
        name = self._folder.relative(path_in_folder)
        return self._member(f"{archive}::{self._folder.path(name)}") if separator else self._folder.read(name)

    def _member(self, url: str) -> bytes:
        """An image in an archive, whose URL is written as in fsspec: zip://a/b.jpg::/data/images.zip."""
        if not url.startswith("zip://") or url.count("::") > 1:
            raise DataError(f"{one_line(url)}: images can be read from zip archives only: unpack it")
        member, _, archive = url.removeprefix("zip://").partition("::")

        try:
            with self._archive(archive).open(member, "rb") as file:
                data: bytes = file.read(MAX_MEMBER_BYTES + 1)
        except Exception as error:
            check_reachable(one_line(url), error)
            if isinstance(error, FileNotFoundError):
                self._folder.require_mounted()
            raise DataError(f"{one_line(url)} cannot be read ({message_of(error)})") from None
        if len(data) > MAX_MEMBER_BYTES:
            raise DataError(f"{one_line(url)} is larger than {MAX_MEMBER_BYTES >> 20} MiB: remove the row")
        return data

    @cached_property
    def _archive(self) -> Callable[[str], Any]:
        """Opens the zip archive at a URL as a file system. The last ones stay open, because opening one reads the list of its
        members."""
        import fsspec

        def opened(url: str) -> Any:
            return fsspec.filesystem("zip", fo=open_seekable(url), skip_instance_cache=True)

        return lru_cache(maxsize=ARCHIVES_OPEN)(opened)

    @cached_property
    def _folder(self) -> ImageFolder:
        if self.image_folder is not None:
            return ImageFolder(self.image_folder, "data.source.image_folder")
        if os.path.isdir(self.path):
            return ImageFolder(self.path, "data.source.path")
        return ImageFolder(f"hf://datasets/{self.path}@{self._commit}", "data.source.path")

    def _identity(self, row: dict[str, Any]) -> str | None:
        value = None if self.identity_column is None else row.get(self.identity_column)
        return None if value is None else one_line(str(value))
