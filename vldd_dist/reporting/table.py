"""A table of results as plain values: what it says, not how it is drawn. One file in `renderers` for each way to draw it."""

from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator


class _Value(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


# On one line, whatever white space was given.
Line = Annotated[str, AfterValidator(lambda text: " ".join(text.split()))]


class Text(_Value):
    """A label, or nothing."""

    kind: Literal["text"] = "text"
    text: Line = ""


class Number(_Value):
    """A count or a ratio, shown with a comma between thousands."""

    kind: Literal["number"] = "number"
    value: int | float
    decimals: int = Field(0, ge=0, description="Shown after the point.")


class Statistic(_Value):
    """A measured mean and its spreads, all in the column's unit."""

    kind: Literal["statistic"] = "statistic"
    mean: float
    std_runs: float | None = Field(None, description="Standard deviation over runs; none for one run.")
    std_students: float | None = Field(None, description="Standard deviation over the students of a run; none for one student.")
    decimals: int = Field(1, ge=0, description="Shown after the point.")
    best: bool = Field(False, description="The best of those that it is compared with.")

    @property
    def spread(self) -> float | None:
        """The one that is shown: over runs where there are several, else over students."""
        return self.std_students if self.std_runs is None else self.std_runs


class Published(_Value):
    """A figure that others have published, not measured here."""

    kind: Literal["published"] = "published"
    mean: float
    std: float | None = Field(None, description="As published; of what is in the source.")
    decimals: int = Field(1, ge=0, description="Shown after the point.")
    best: bool = Field(False, description="The best of those that it is compared with.")
    source: Line = Field(description="Paper, version and table.")

    @property
    def spread(self) -> float | None:
        return self.std


Cell = Annotated[Text | Number | Statistic | Published, Field(discriminator="kind")]


class Column(_Value):
    """A column: of labels, or of figures of one quantity."""

    key: Line = Field(min_length=1, description="Its name for machines, unlike that of any other column.")
    head: Line = Field(description="Its name for people.")
    group: Line = Field("", description="A head above it and its neighbours of the same group.")
    figures: bool = Field(False, description="Holds numbers, else labels.")
    once: bool = Field(False, description="What equals the cell above it in its section is not shown again.")
    detail: bool = Field(False, description="Only on the page and in CSV.")


class Row(_Value):
    """A cell for each column."""

    cells: list[Cell]
    accent: bool = Field(False, description="One that the table is about, set off on the page.")


class Section(_Value):
    """Rows that are compared with each other."""

    title: Line = Field("", description="Shown above the first of neighbouring sections that have the same.")
    rows: list[Row] = Field(min_length=1)


class Table(_Value):
    """Attributes are as read; the methods say what every way to draw it has in common."""

    title: Line
    columns: list[Column] = Field(min_length=1)
    sections: list[Section]
    notes: list[Line] = Field([], description="Sentences below it.")

    @model_validator(mode="after")
    def _fits(self) -> "Table":
        keys = [column.key for column in self.columns]
        if twice := next((key for key in keys if keys.count(key) > 1), None):
            raise ValueError(f"two columns have the key {twice!r}: give each its own")
        for row in (row for section in self.sections for row in section.rows):
            if len(row.cells) != len(keys):
                raise ValueError(f"a row has {len(row.cells)} cells in a table of {len(keys)} columns")
        return self

    def without_details(self) -> "Table":
        """Without its `detail` columns."""
        kept = [position for position, column in enumerate(self.columns) if not column.detail]
        return self._with_rows(
            [self.columns[position] for position in kept], lambda row, above: [row.cells[position] for position in kept]
        )

    def without_repeats(self) -> "Table":
        """With nothing in a cell of a `once` column that equals the cell above it in its section."""

        def cells(row: Row, above: Row | None) -> list[Cell]:
            repeats = [
                above is not None and column.once and above.cells[i] == row.cells[i] for i, column in enumerate(self.columns)
            ]
            return [Text() if repeated else cell for repeated, cell in zip(repeats, row.cells, strict=True)]

        return self._with_rows(self.columns, cells)

    def _with_rows(self, columns: list[Column], cells: Callable[[Row, Row | None], list[Cell]]) -> "Table":
        sections = [
            Section(
                title=section.title,
                rows=[
                    Row(cells=cells(row, above), accent=row.accent)
                    for above, row in zip([None, *section.rows], section.rows, strict=False)
                ],
            )
            for section in self.sections
        ]
        return Table(title=self.title, columns=columns, sections=sections, notes=self.notes)

    def titled_sections(self) -> Iterator[tuple[str, Section]]:
        """Each section with the title to show above it, or none."""
        previous = ""
        for section in self.sections:
            yield (section.title if section.title != previous else ""), section
            previous = section.title

    def head_groups(self) -> list[tuple[str, int]]:
        """(head above columns, how many columns it spans) from left to right; the head is empty where there is none."""
        return [(group, len(list(columns))) for group, columns in groupby(column.group for column in self.columns)]

    def sources(self) -> dict[str, str]:
        """Source of published figures -> the mark that stands beside its figures."""
        cells = (cell for section in self.sections for row in section.rows for cell in row.cells)
        sources = dict.fromkeys(cell.source for cell in cells if isinstance(cell, Published))
        return {source: f"[{number}]" for number, source in enumerate(sources, 1)}

    def all_notes(self) -> list[str]:
        """The notes, then one for each source of published figures."""
        return [*self.notes, *(f"{mark} As published: {source}." for source, mark in self.sources().items())]


class Shown(_Value):
    """A cell as text.

    Attributes:
        main: the label, number or mean.
        spread: without its sign; empty if there is none.
        mark: of the source of a published figure.
    """

    main: str
    spread: str = ""
    mark: str = ""
    best: bool = False


def shown(cell: Cell, marks: dict[str, str]) -> Shown:
    """Args:
    marks: `Table.sources`.
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
