"""A table of image paths and captions: CSV, TSV, JSONL or parquet."""

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from vldd_dist.config.base import LOCATION
from vldd_dist.control_characters import one_line
from vldd_dist.data.files.captions import NoCaption
from vldd_dist.data.files.image_folder import ImageFolder
from vldd_dist.data.files.pinned import Pinned
from vldd_dist.data.files.reading import reading
from vldd_dist.data.files.versions import content_version
from vldd_dist.data.sources.base import SPLITS, Part, Samples, Source, check_split, split_called
from vldd_dist.data.sources.columns import CAPTION_COLUMNS, PATH_COLUMNS, captions_in, find_column, text_of
from vldd_dist.data.sources.sample import RawSample, UnreadableSample
from vldd_dist.data.sources.tables.base import Row, RowNames, Table
from vldd_dist.data.sources.tables.index import RowIndex
from vldd_dist.data.sources.tables.lines import JsonLines, SeparatedValues
from vldd_dist.data.sources.tables.parquet import Parquet
from vldd_dist.errors import DataError

EXTENSIONS = {"csv": "csv", "tsv": "csv", "jsonl": "jsonl", "ndjson": "jsonl", "parquet": "parquet", "pq": "parquet"}


def _one_character(separator: str | None) -> str | None:
    if separator is not None and (len(separator) != 1 or separator in '\r\n"\\'):
        raise ValueError(f'{separator!r} is not a separator: give one character, a tab as "\\t" in double quotes')
    return separator


@dataclass
class _Image:
    """An image, as the rows of a part describe it.

    Attributes:
        position: position of its first row.
        row: its first row, which an error names if the file cannot be read.
        name: path of the file in the folder.
        error: why one of the rows cannot be used, or that no row has a caption, which makes the image unreadable.
    """

    position: int
    row: Row
    name: str = ""
    captions: list[str] = field(default_factory=list)
    error: DataError | None = None


class TableSource(Source):
    """A table, and the folder of the images it names. An image with several rows, wherever they are, has several captions."""

    path: Annotated[str, LOCATION] = Field(description="The table: a path or any fsspec URL.")
    format: Literal["csv", "jsonl", "parquet"] | None = Field(
        None, description="Format of the table (csv with any separator); null: from the extension of its name."
    )
    image_folder: Annotated[str | None, LOCATION] = Field(
        None,
        description="Folder that the image paths are relative to, a path or an fsspec URL; null: the folder of the table. The "
        "table identifies the prepared data: they are used again if only the images change or move.",
    )
    image_column: str | None = Field(
        None, description=f"Column of the image paths; null: the only column called one of {', '.join(PATH_COLUMNS)}."
    )
    caption_columns: Annotated[list[str], Field(min_length=1)] | None = Field(
        None,
        description="Columns of captions, whose cells are texts or lists of texts; null: the only column called one of "
        f"{', '.join(CAPTION_COLUMNS)}.",
    )
    split_column: str | None = Field(
        None, description="Column with the split: train, val, validation or test; null: all rows belong to train."
    )
    separator: Annotated[str | None, AfterValidator(_one_character)] = Field(
        None,
        description="Separator of a csv table; null: a tab if the name ends in .tsv or the header has tabs but no comma, else "
        "a comma.",
    )

    def own_splits(self) -> tuple[str, ...]:
        if self.split_column is None:
            return ("train",)
        return tuple(split for split in SPLITS if split == "train" or split in self._rows.content)

    def parts(self, split: str, *, limit: int | None, part_samples: int) -> list[Part]:
        """Positions are byte offsets in a text file, row numbers in a parquet file."""
        if split not in self._rows.content:
            return []
        advice = (
            f"{self.path}: rows of one image are too far apart for a table of this size: sort it by the column "
            f"{self._image_column!r}"
        )
        return self._rows.content[split].parts(part_samples, limit, advice)

    def samples(self, split: str, part: Part, *, image_size: int, seed: int) -> Samples:
        row_names = RowNames(self.table, part.start)
        images = self._images_of(split, part, row_names)
        data = self._folder.read_all(image.name for image in images if image.error is None)
        for image in images:
            data_or_error = image.error or next(data)
            if isinstance(data_or_error, bytes):
                key, source = f"{image.position:012d}", one_line(self._folder.path(image.name))
                yield RawSample(key, source, self.path, data_or_error, image.captions, one_line(image.name))
            else:
                yield UnreadableSample(self.path, image.error or DataError(f"{row_names.of(image.row)}: {data_or_error}"))

    def describe(self, split: str, part: Part, *, seed: int) -> dict[str, Any]:
        """The table identifies the images too, so that a cluster without access to them finds the prepared unit."""
        return {"table": self._rows.version}

    def known_count(self, split: str) -> int:
        """From the table."""
        return self._rows.content[split].images() if split in self._rows.content else 0

    @cached_property
    def _rows(self) -> Pinned[dict[str, RowIndex]]:
        """Split -> index of its rows."""
        return Pinned(self._find_version, self._read_index)

    def _find_version(self) -> str:
        with reading(f"data.source.path: {self.path}"):
            return content_version(self.path)

    @cached_property
    def table(self) -> Table:
        """Raises DataError if neither `format` nor the extension of the name says which format it has."""
        by_extension = EXTENSIONS.get(self.path.rpartition(".")[2].lower())
        match self.format or by_extension:
            case "csv":
                return SeparatedValues(self.path, self.separator)
            case "jsonl":
                return JsonLines(self.path)
            case "parquet":
                return Parquet(self.path)
        raise DataError(f"data.source.path: the name of {self.path} does not show its format: set data.source.format")

    @cached_property
    def _folder(self) -> ImageFolder:
        folder = posixpath.dirname(self.path) if self.image_folder is None else self.image_folder
        return ImageFolder(folder or ".", "data.source.image_folder")

    @cached_property
    def _image_column(self) -> str:
        column = self._column("image_column", self.image_column, PATH_COLUMNS)
        if self.table.holds_images(column):
            raise DataError(
                f"{self.path}: the column {column!r} holds images, not their paths: use the source `hf` with the table's folder"
            )
        return column

    @cached_property
    def _caption_columns(self) -> list[str]:
        names: Sequence[str | None] = self.caption_columns or [None]
        return [self._column("caption_columns", name, CAPTION_COLUMNS) for name in names]

    def _column(self, setting: str, name: str | None, usual: tuple[str, ...]) -> str:
        return find_column(self.table.columns, setting, name, usual, self.path, self.table.advice)

    def _read_index(self) -> dict[str, RowIndex]:
        """Split -> index of its rows, made in one pass over the table."""
        indices: dict[str, RowIndex] = {}
        for row in self.table.rows(self._columns, 0, None):
            split = self._split_of(row)
            if split not in indices:
                indices[split] = RowIndex()
            indices[split].add(row.position, self._image_of(row))
        self._refuse_shared_images({split: indices[split] for split in SPLITS if split in indices})
        return indices

    def _refuse_shared_images(self, indices: dict[str, RowIndex]) -> None:
        """Raises DataError if rows of one image are in two splits, for example because each row has a split of its own."""
        for (split, one), (other, another) in combinations(indices.items(), 2):
            for position in one.shared_with(another):
                row = next(self.table.rows(self._columns, position, position + 1))
                # Rows without a valid split, which are bad samples, count as training rows.
                if row.values is not None and isinstance(row.values[1], str) and split_called(row.values[1]) == split:
                    name = one_line(self._image_of(row))
                    raise DataError(f"{self.path}: {name} has rows in {split} and in {other}: give all its rows the same split")

    @cached_property
    def _columns(self) -> list[str]:
        """The columns to read, in the order in which rows hold them: image, split if there is one, captions."""
        split = [] if self.split_column is None else [self._column("split_column", self.split_column, ())]
        return [self._image_column, *split, *self._caption_columns]

    def _split_of(self, row: Row) -> str:
        """The split of a row. A row without a valid split counts as a (bad) training image."""
        if self.split_column is None or row.values is None or not isinstance(row.values[1], str):
            return "train"
        return split_called(row.values[1]) or "train"

    def _image_of(self, row: Row) -> str:
        """The image's path in the folder, which is the same for all rows of an image; a unique text if the row has no usable
        path."""
        cell = row.values[0] if row.values is not None else None
        try:
            name = self._folder.relative(cell) if isinstance(cell, str) else "."
        except DataError:
            name = "."
        return name if name != "." else f"\0{row.position}"

    def _images_of(self, split: str, part: Part, row_names: RowNames) -> list[_Image]:
        """The images of a part, in the order of their first rows."""
        images: dict[str, _Image] = {}
        # Name of an image -> the first of its rows without a caption, as an error.
        without: dict[str, DataError] = {}
        for row in self.table.rows(self._columns, part.start, part.stop):
            if self._split_of(row) != split:
                continue
            name = self._image_of(row)
            if name not in images:
                if len(images) == part.limit:
                    # Not break: further rows of earlier images may follow.
                    continue
                images[name] = _Image(row.position, row, name)
            image = images[name]
            try:
                image.captions += self._captions_of(row)
            except NoCaption as error:
                without.setdefault(name, DataError(f"{row_names.of(row)}: {error}"))
            except DataError as error:
                image.error = image.error or DataError(f"{row_names.of(row)}: {error}")
        for name, no_caption in without.items():
            if not images[name].captions:
                images[name].error = images[name].error or no_caption
        return list(images.values())

    def _captions_of(self, row: Row) -> list[str]:
        """The captions of a row. Raises DataError if it cannot be used, NoCaption if it has none; callers add the location."""
        if row.values is None:
            raise DataError(row.fault)
        if self.split_column is not None:
            check_split(text_of(self.split_column, row.values[1]), self.split_column)
        if self._folder.relative(text_of(self._image_column, row.values[0])) == ".":
            raise DataError(f"{self._image_column}: empty: name an image, or remove the row")
        columns = self._caption_columns
        return captions_in(columns, row.values[-len(columns) :])
