"""The recall table of a report, as a `Table` and as JSON."""

from collections.abc import Iterable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from vldd_dist.method_names import DISTILLED, FULL, display_name
from vldd_dist.recall_metrics import RECALL_METRICS, coarseness, measured_on
from vldd_dist.reporting.data import MeasuredSplit, MissingRow, ReportData, Row, metric_name
from vldd_dist.reporting.tables.set_sizes import COUNTED, UNMARKED, Sizes, are_equal, ratio_of, similarity_note
from vldd_dist.reporting.tables.table import Cell, Column, Number, Statistic, Table, TableRow, TableSection, Text

# Method, or "" for coresets -> (what its rows are, what its runs are, what one run gives), in the order of a table.
RUNS = {
    FULL: ("full data", "experts", "one expert"),
    "": ("coresets", "selections", "one selection"),
    DISTILLED: ("distilled pairs", "distillations", "one distilled set"),
}
SHARE = Column(key="of_full_data", head="of full data, %", figures=True)
SHARE_NOTE = f"{SHARE.head.capitalize()}: the mean divided by that of full data with the same towers."

FULL_DATA_NOTE = "Full data: the experts; in place of pairs, the row has the number of training images."

# The largest number of incomplete rows that a table names.
NAMED_ROWS = 20


@dataclass(frozen=True)
class RowGroup:
    """Rows that are compared with each other: students with the same image tower, trained on the same number of pairs.

    Attributes:
        equal_bytes: whether the pairs of all rows have about equally many bytes.
    """

    pairs: int
    image_model: str | None
    rows: list[Row]
    equal_bytes: bool = True

    def is_best(self, row: Row, metric: str) -> bool:
        """Whether no other row has a higher mean. False if there is no other row, if some rows have more bytes, and for
        metrics other than recall."""
        return (
            metric in RECALL_METRICS
            and len(self.rows) > 1
            and self.equal_bytes
            and row.metrics[metric].mean == max(other.metrics[metric].mean for other in self.rows)
        )


@dataclass(frozen=True)
class Comparison:
    """Mean recall, with the experiment's own towers, of distilled pairs, of the best coreset of as many real pairs, and of full
    data."""

    pairs: int
    distilled: float
    coreset: Row | None
    full: Row | None


def row_groups(rows: list[Row], sizes: Sizes = MappingProxyType({})) -> list[RowGroup]:
    """Group the rows: full data first, then by ascending number of pairs; then the same for each other image tower. Within a
    group, coresets keep their order, and distilled pairs come last."""
    groups: dict[tuple[str, bool, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.image_model or "", row.method != FULL, row.pairs), []).append(row)
    return [
        RowGroup(
            pairs,
            model or None,
            sorted(of_group, key=lambda row: row.method == DISTILLED),
            are_equal(ratio_of(row.method, row.pairs, sizes) for row in of_group),
        )
        for (model, _, pairs), of_group in sorted(groups.items(), key=lambda group: group[0])
    ]


def comparisons(rows: list[Row]) -> list[Comparison]:
    """A comparison for each number of distilled pairs."""
    own = [row for row in rows if row.image_model is None]
    full = next((row for row in own if row.method == FULL), None)
    return [
        Comparison(
            pairs=row.pairs,
            distilled=row.metrics["mean"].mean,
            coreset=max(
                (other for other in own if other.pairs == row.pairs and _is_of_real_pairs(other)),
                key=lambda other: other.metrics["mean"].mean,
                default=None,
            ),
            full=full,
        )
        for row in sorted(own, key=lambda row: row.pairs)
        if row.method == DISTILLED
    ]


def _is_of_real_pairs(row: Row) -> bool:
    return row.method not in (DISTILLED, FULL) and not row.averages


def averages_notes(rows: list[Row]) -> list[str]:
    """A sentence for each method whose pairs are means."""
    names = dict.fromkeys(display_name(row.method).capitalize() for row in rows if row.averages)
    return [f"{name}: means of real pairs, made without distillation." for name in names]


def similarity_notes(data: ReportData) -> list[str]:
    """A sentence on the bytes of the distilled sets that have a learned similarity, if the table has both kinds of rows."""
    numbers = {row.pairs for row in data.rows if row.method == DISTILLED and row.image_model is None}
    compared = {row.pairs for row in data.rows if row.method not in (DISTILLED, FULL)}
    more = [
        (f"at {pairs:,} pairs", ratio_of(DISTILLED, pairs, data.similarity_sizes))
        for pairs in sorted(data.similarity_sizes)
        if pairs in numbers & compared
    ]
    said = similarity_note(more, UNMARKED)
    return [*said, COUNTED] if said else []


def repeated(rows: list[Row]) -> list[str]:
    """A sentence that names the coresets of which some selections are of the same images, if there are any."""
    pairs_of: dict[str, set[int]] = {}
    for row in rows:
        if row.selections is not None:
            counted = f"{display_name(row.method)} {row.selections} of {row.runs}"
            pairs_of.setdefault(counted, set()).add(row.pairs)
    named = [f"{counted} ({', '.join(f'{one:,}' for one in sorted(pairs))} pairs)" for counted, pairs in pairs_of.items()]
    return [f"± counts selections of the same images one by one. Different selections: {'; '.join(named)}."] if named else []


def full_data_note(rows: list[Row]) -> list[str]:
    """A sentence that says what full data are, if they have a row."""
    return [FULL_DATA_NOTE] if any(row.method == FULL for row in rows) else []


def incomplete(rows: Iterable[tuple[str, Row | MissingRow]]) -> list[str]:
    """A sentence that names the first rows with fewer students than planned, if there are any.

    Args:
        rows: (variant or "", row).
    """
    partial = [
        f"{', '.join(filter(None, [variant, display_name(row.method), row.image_model, _pairs(row)]))}: "
        f"{row.students} of {row.planned} students"
        for variant, row in rows
        if row.students < row.planned
    ]
    further = [f"and {len(partial) - NAMED_ROWS} more rows"] if len(partial) > NAMED_ROWS else []
    return [f"Incomplete: {'; '.join([*partial[:NAMED_ROWS], *further])}."] if partial else []


def _pairs(row: Row | MissingRow) -> str:
    return "" if row.pairs is None else f"{row.pairs:,} pairs"


def metrics_of(rows: list[Row]) -> list[str]:
    """The columns of a table: the recalls, their mean, then the further metrics that any row has."""
    return list(dict.fromkeys([*RECALL_METRICS, *(metric for row in rows for metric in row.metrics)]))


def of_full_data(row: Row, rows: list[Row]) -> float | None:
    """The row's mean recall in percent of that of full data with the same towers; None if the latter is unknown or zero."""
    full = [other for other in rows if other.method == FULL and other.image_model == row.image_model]
    if not full or full[0].metrics["mean"].mean == 0:
        return None
    return 100 * row.metrics["mean"].mean / full[0].metrics["mean"].mean


def share_cell(row: Row, rows: list[Row]) -> Cell:
    """The cell of the column SHARE; empty for full data themselves, and where `of_full_data` is None."""
    share = None if row.method == FULL else of_full_data(row, rows)
    return Text() if share is None else Number(value=share, decimals=1)


def spread_note(rows: list[Row], test_split: MeasuredSplit | None = None) -> str:
    """The sentence that says on what recall is measured, and what ± means for which rows: the spread over experts, selections
    or distillations or, where there is only one, over its students."""
    measured = "Test recall in percent"
    if test_split is not None:
        measured += f" on {measured_on(test_split.images, test_split.captions)}"
    spreads = []
    for kind, (name, runs, one) in RUNS.items():
        own = [row for row in rows if kind == (row.method if row.method in RUNS else "")]
        several = [row for row in own if row.runs > 1]
        if any(row.students > row.runs for row in several):
            runs += ", of the mean over each one's students,"
        single = any(row.runs == 1 and row.students > 1 for row in own)
        over = [runs] if several else []
        over += [f"the students of {one}"] if single else []
        if over:
            spreads.append(f"over {' or '.join(over)} for {name}")
    if not spreads:
        return f"{measured}, of one student each."
    return f"{measured}; ± is the population standard deviation {'; '.join(spreads)}."


def summary(data: ReportData) -> dict[str, Any]:
    """The rows as JSON values. Only cross-architecture rows have `image_model`. Only rows that can be compared with full data
    have `of_full_data`."""
    rows = []
    for row in (row for group in row_groups(data.rows) for row in group.rows):
        part = of_full_data(row, data.rows)
        rows.append(row.model_dump(exclude_none=True, exclude={"metrics"}) | ({} if part is None else {SHARE.key: part}))
        rows[-1]["metrics"] = {name: stat.model_dump() for name, stat in row.metrics.items()}
    return {"rows": rows}


def recall_table(data: ReportData) -> Table:
    """The table, with a section for each number of pairs, in which the best values are marked. Sections with other image towers
    have a title that says so."""
    metrics = metrics_of(data.rows)
    planned: list[Row | MissingRow] = [*data.rows, *data.missing]
    unfinished = incomplete(("", row) for row in planned)
    coarse = None if data.test_split is None else coarseness(data.test_split.images)
    notes = [spread_note(data.rows, data.test_split), *filter(None, [coarse]), *unfinished]
    notes += [*repeated(data.rows), *averages_notes(data.rows), *similarity_notes(data)]
    notes += full_data_note(data.rows)
    columns = [Column(key=metric, head=metric_name(metric), figures=True) for metric in metrics]
    if any(share_cell(row, data.rows) != Text() for row in data.rows):
        columns.insert(metrics.index("mean") + 1, SHARE)
        notes.append(SHARE_NOTE)
    return Table(
        title=f"{data.name}: recall",
        columns=[
            Column(key="pairs", head="pairs", once=True),
            Column(key="method", head="method"),
            *columns,
            Column(key="runs", head="runs", figures=True, detail=True),
            Column(key="students", head="students", figures=True, detail=True),
        ],
        sections=[
            TableSection(
                title=f"students on {group.image_model}" if group.image_model else "",
                rows=[
                    TableRow(
                        cells=[
                            Number(value=row.pairs),
                            Text(text=display_name(row.method)),
                            *(_figure(column.key, group, row, data.rows) for column in columns),
                            Number(value=row.runs),
                            Number(value=row.students),
                        ],
                        accent=row.method == DISTILLED,
                    )
                    for row in group.rows
                ],
            )
            for group in row_groups(data.rows, data.similarity_sizes)
        ],
        notes=notes,
    )


def _figure(key: str, group: RowGroup, row: Row, rows: list[Row]) -> Cell:
    """The cell for a metric of a row, or for its recall in percent of full data."""
    if key == SHARE.key:
        return share_cell(row, rows)
    if key not in row.metrics:
        return Text()
    return Statistic(**row.metrics[key].model_dump(), best=group.is_best(row, key))
