"""Figures from papers, which tables show beside measured ones.

Each published table is a YAML file. For each dataset in it there is a table with the name FILE-DATASET. The format of a file:

    title: what it shows
    source: paper, version and table, as far as they are known
    url: of the paper
    read_in: where the figures were read, if not in the paper itself
    notes: [how they were measured, if that differs from how we measure]
    rows:
      - {dataset: flickr30k, variant: nfnet-bert, method: distilled, pairs: 100, tr1: 9.9, ir1: {mean: 4.7, std: 0.2}}

`variant` is the name of a variant in the presets of studies. `method` is as in our tables ("full", a coreset's label,
"distilled"), or the name of a method if the table compares several. `image_model` is the students' image tower, if it differs.
"""

import difflib
from functools import cache
from importlib.resources import files
from typing import Any

import yaml
from pydantic import Field, model_validator

from vldd_dist.method_names import display_name
from vldd_dist.recall_metrics import RECALL_METRICS
from vldd_dist.reporting.data import metric_name
from vldd_dist.reporting.tables.table import Cell, Column, Number, Published, Table, TableRow, TableSection, Text
from vldd_dist.strict_model import StrictModel


class PublishedFigure(StrictModel):
    """A published mean in percent, with its standard deviation if that is published."""

    mean: float = Field(ge=0, le=100)
    std: float | None = Field(None, ge=0, le=100)


class PublishedRow(StrictModel):
    """The published figures of one set of students."""

    dataset: str
    variant: str
    method: str
    pairs: int | None = Field(None, gt=0, description="Number of pairs; None for full data.")
    image_model: str | None = None
    figures: dict[str, PublishedFigure] = Field(min_length=1, description="Metric -> figure.")

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Collect the metrics, which are keys of the row in a file, into `figures`. A plain number is a mean."""
        figures = {metric: given[metric] for metric in RECALL_METRICS if metric in given}
        rest = {key: value for key, value in given.items() if key not in figures}
        return rest | {
            "figures": {key: value if isinstance(value, dict) else {"mean": value} for key, value in figures.items()}
        }


class PublishedTable(StrictModel):
    """The rows of one dataset."""

    title: str
    source: str
    url: str
    read_in: str | None = None
    notes: list[str] = Field([], description="How they were measured, if that differs from how we measure.")
    rows: list[PublishedRow] = Field(min_length=1)

    @model_validator(mode="after")
    def _each_row_key_once(self) -> "PublishedTable":
        keys = [row.model_dump_json(exclude={"figures"}) for row in self.rows]
        if duplicate := next((key for key in keys if keys.count(key) > 1), None):
            raise ValueError(f"two rows have the same key: {duplicate}: remove one of them")
        return self

    def variants(self) -> list[str]:
        """The names of its variants."""
        return list(dict.fromkeys(row.variant for row in self.rows))

    def cell(
        self, variant: str, method: str, pairs: int | None, metric: str, image_model: str | None = None
    ) -> Published | None:
        """The figure of a metric, or None. For full data, `pairs` is ignored."""
        pairs = None if method == "full" else pairs
        for row in self.rows:
            if (row.variant, row.method, row.pairs, row.image_model) == (variant, method, pairs, image_model):
                return self._cell(row, metric)
        return None

    def table(self) -> Table:
        """All rows as a table. Metrics and labels that no row has are left out."""
        metrics = [metric for metric in RECALL_METRICS if any(metric in row.figures for row in self.rows)]
        towers = any(row.image_model for row in self.rows)

        def cells(row: PublishedRow) -> list[Cell]:
            return [
                Text() if row.pairs is None else Number(value=row.pairs),
                Text(text=row.variant),
                *([Text(text=row.image_model or "the same")] if towers else []),
                Text(text=display_name(row.method)),
                *(self._cell(row, metric) or Text() for metric in metrics),
            ]

        return Table(
            title=self.title,
            columns=[
                Column(key="pairs", head="pairs", once=True),
                Column(key="variant", head="variant", once=True),
                *([Column(key="image_model", head="students' image tower")] if towers else []),
                Column(key="method", head="method"),
                *(Column(key=metric, head=metric_name(metric), figures=True) for metric in metrics),
            ],
            sections=[TableSection(rows=[TableRow(cells=cells(row)) for row in self.rows])],
            notes=["Test recall in percent."],
        )

    def _cell(self, row: PublishedRow, metric: str) -> Published | None:
        if metric not in row.figures:
            return None
        second_hand = f", read in {self.read_in}" if self.read_in else ""
        source = f"{self.source} ({self.url}){second_hand}"
        return Published(**row.figures[metric].model_dump(), source=source, notes=self.notes)


@cache
def published_tables() -> dict[str, PublishedTable]:
    """Name -> published table, for all of them."""
    tables = {}
    for file in sorted(files(__name__).iterdir(), key=lambda file: file.name):
        if file.name.endswith(".yaml"):
            tree = yaml.safe_load(file.read_text(encoding="utf-8"))
            for dataset in dict.fromkeys(row["dataset"] for row in tree["rows"]):
                rows = [row for row in tree["rows"] if row["dataset"] == dataset]
                name = f"{file.name.removesuffix('.yaml')}-{dataset}"
                tables[name] = PublishedTable.model_validate(tree | {"rows": rows})
    return tables


def published_table(name: str) -> PublishedTable:
    """The published table with this name. Raises ValueError if there is none."""
    tables = published_tables()
    if name not in tables:
        near = difflib.get_close_matches(name, tables, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"there is no published table {name!r}: `vldd published` lists them{hint}")
    return tables[name]
