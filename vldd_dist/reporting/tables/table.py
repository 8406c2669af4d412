"""A table of results as plain values, independent of how it is drawn. Each format has a file in `renderers`."""

from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from vldd_dist.strict_model import StrictModel

# Text on one line: each run of white space becomes one space.
LineText = Annotated[str, AfterValidator(lambda text: " ".join(text.split()))]


class Text(StrictModel):
    """A label, or an empty cell."""

    kind: Literal["text"] = "text"
    text: LineText = ""


class Number(StrictModel):
    """A count or a ratio, shown with commas between thousands."""

    kind: Literal["number"] = "number"
    value: int | float
    decimals: int = Field(0, ge=0, description="Number of decimal places shown.")


class Statistic(StrictModel):
    """A measured mean and its standard deviations, all in the column's unit."""

    kind: Literal["statistic"] = "statistic"
    mean: float
    std_runs: float | None = Field(None, description="Standard deviation over runs; None for one run.")
    std_students: float | None = Field(None, description="Standard deviation over the students of a run; None for one student.")
    decimals: int = Field(1, ge=0, description="Number of decimal places shown.")
    best: bool = Field(False, description="Whether it is the best of the values with which it is compared.")

    @property
    def spread(self) -> float | None:
        """The standard deviation that is shown: over runs if there are several, else over students."""
        return self.std_students if self.std_runs is None else self.std_runs


class Published(StrictModel):
    """A figure that others have published; it was not measured here."""

    kind: Literal["published"] = "published"
    mean: float
    std: float | None = Field(None, description="Standard deviation as published; the source says over what.")
    decimals: int = Field(1, ge=0, description="Number of decimal places shown.")
    best: bool = Field(False, description="Whether it is the best of the values with which it is compared.")
    source: LineText = Field(description="Paper, version and table.")
    notes: list[LineText] = Field([], description="Sentences on how it was measured, the same for all figures of a source.")

    @property
    def spread(self) -> float | None:
        return self.std


Cell = Annotated[Text | Number | Statistic | Published, Field(discriminator="kind")]


class Column(StrictModel):
    """A column of labels, or of figures for one quantity."""

    key: LineText = Field(min_length=1, description="Its name for programs, unique in the table.")
    head: LineText = Field(description="Its heading.")
    group: LineText = Field("", description="A heading above it and above neighbouring columns with the same group.")
    figures: bool = Field(False, description="Whether it contains numbers; otherwise it contains labels.")
    once: bool = Field(False, description="Whether a cell that equals the cell above it in its section is left empty.")
    detail: bool = Field(False, description="Whether it is shown only on the page and in CSV.")


class TableRow(StrictModel):
    """A cell for each column."""

    cells: list[Cell]
    accent: bool = Field(False, description="Whether the row is emphasised on the page.")


class TableSection(StrictModel):
    """Rows that are compared with each other."""

    title: LineText = Field("", description="Shown above the first of neighbouring sections with the same title.")
    rows: list[TableRow] = Field(min_length=1)


class Table(StrictModel):
    """A table. The methods do what all renderers have in common."""

    title: LineText
    columns: list[Column] = Field(min_length=1)
    sections: list[TableSection]
    notes: list[LineText] = Field([], description="Sentences below the table.")

    @model_validator(mode="after")
    def _fits(self) -> "Table":
        keys = [column.key for column in self.columns]
        if duplicate := next((key for key in keys if keys.count(key) > 1), None):
            raise ValueError(f"two columns have the key {duplicate!r}: give each its own")
        for row in (row for section in self.sections for row in section.rows):
            if len(row.cells) != len(keys):
                raise ValueError(f"a row has {len(row.cells)} cells in a table of {len(keys)} columns")
        return self

    def without_details(self) -> "Table":
        """The table without its `detail` columns."""
        kept = [position for position, column in enumerate(self.columns) if not column.detail]
        return self._with_rows(
            [self.columns[position] for position in kept], lambda row, above: [row.cells[position] for position in kept]
        )

    def without_repeats(self) -> "Table":
        """The table with those cells of `once` columns emptied that equal the cell above them in their section."""

        def cells(row: TableRow, above: TableRow | None) -> list[Cell]:
            repeats = [
                above is not None and column.once and above.cells[i] == row.cells[i] for i, column in enumerate(self.columns)
            ]
            return [Text() if repeated else cell for repeated, cell in zip(repeats, row.cells, strict=True)]

        return self._with_rows(self.columns, cells)

    def _with_rows(self, columns: list[Column], cells: Callable[[TableRow, TableRow | None], list[Cell]]) -> "Table":
        sections = [
            TableSection(
                title=section.title,
                rows=[
                    TableRow(cells=cells(row, above), accent=row.accent)
                    for above, row in zip([None, *section.rows], section.rows, strict=False)
                ],
            )
            for section in self.sections
        ]
        return Table(title=self.title, columns=columns, sections=sections, notes=self.notes)

    def titled_sections(self) -> Iterator[tuple[str, TableSection]]:
        """(title to show above the section, or "", section) for each section."""
        previous = ""
        for section in self.sections:
            yield (section.title if section.title != previous else ""), section
            previous = section.title

    def head_groups(self) -> list[tuple[str, int]]:
        """(group heading, number of columns it spans) from left to right; the heading is "" for columns without a group."""
        return [(group, len(list(columns))) for group, columns in groupby(column.group for column in self.columns)]

    def sources(self) -> dict[str, str]:
        """Source of published figures -> the mark that stands beside its figures."""
        sources = dict.fromkeys(cell.source for cell in self._published())
        return {source: f"[{number}]" for number, source in enumerate(sources, 1)}

    def all_notes(self) -> list[str]:
        """The notes, followed by one for each source of published figures, with the notes of that source."""
        marks, notes = self.sources(), {cell.source: cell.notes for cell in self._published()}
        return [
            *self.notes,
            *(" ".join([f"{mark} As published: {source}.", *notes[source]]) for source, mark in marks.items()),
        ]

    def _published(self) -> list[Published]:
        cells = (cell for section in self.sections for row in section.rows for cell in row.cells)
        return [cell for cell in cells if isinstance(cell, Published)]


class Shown(StrictModel):
    """A cell as text.

    Attributes:
        main: the label, number or mean.
        spread: the standard deviation without "±"; empty if there is none.
        mark: reference to the source of a published figure, such as "[1]".
    """

    main: str
    spread: str = ""
    mark: str = ""
    best: bool = False


def shown(cell: Cell, marks: dict[str, str]) -> Shown:
    """The cell as text.

    Args:
        marks: the result of `Table.sources`.
    """
    if isinstance(cell, Text):
        return Shown(main=cell.text)
    if isinstance(cell, Number):
        return Shown(main=f"{cell.value:,.{cell.decimals}f}")
    return Shown(
        main=f"{cell.mean:.{cell.decimals}f}",
        spread="" if cell.spread is None else f"{cell.spread:.{cell.decimals}f}",
        mark=marks[cell.source] if isinstance(cell, Published) else "",
        best=cell.best,
    )
