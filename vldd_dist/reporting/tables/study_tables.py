"""The tables of a study: the results of several variants, with published figures beside them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Literal

from vldd_dist.method_names import DISTILLED, FULL, display_name
from vldd_dist.recall_metrics import coarseness, measured_on
from vldd_dist.reporting.data import MeasuredSplit, MissingRow, Row, metric_name
from vldd_dist.reporting.tables.recall_table import (
    SHARE,
    SHARE_NOTE,
    averages_notes,
    full_data_note,
    incomplete,
    repeated,
    share_cell,
    spread_note,
)
from vldd_dist.reporting.tables.set_sizes import COUNTED, UNMARKED, Sizes, are_equal, ratio_of, similarity_note
from vldd_dist.reporting.tables.table import Cell, Column, Number, Published, Statistic, Table, TableRow, TableSection, Text

# In place of a variant's name.
ALL_VARIANTS = ""


@dataclass(frozen=True)
class RowKey:
    """Identifies the set of students from which a figure was measured.

    Attributes:
        variant: a name, or ALL_VARIANTS.
    """

    variant: str
    method: str
    pairs: int
    image_model: str | None


@dataclass(frozen=True)
class Layout:
    """What a table shows, and where.

    Attributes:
        variants, methods: names, in the order of the table.
        pairs: the numbers of pairs to show; None: all.
        budgets: number of pairs -> the number with which it is compared.
        sizes: number of pairs of `budgets` -> bytes of the plain pairs with which it is compared -> bytes of the largest set of
            so many pairs. There are several if variants have images of several sizes, and none where they are not known.
        similarity_sizes: variant -> the sizes of its sets, if it learns a similarity and they are known.
        other_image_models: whether to show students with other image towers than the variant's.
        across: whether each method, or each variant, has its own column under each metric; None: each has its own rows.
        metrics: names, in the order of the table.
    """

    title: str
    variants: list[str]
    methods: list[str]
    pairs: list[int] | None = None
    budgets: Mapping[int, int] = field(default_factory=dict)
    sizes: Mapping[int, Mapping[int, int]] = field(default_factory=dict)
    similarity_sizes: Mapping[str, Sizes] = field(default_factory=dict)
    other_image_models: bool = False
    across: Literal["method", "variant"] | None = None
    metrics: list[str] = field(default_factory=list)

    def budget(self, pairs: int) -> int:
        """The number of pairs with which this number is compared."""
        return self.budgets.get(pairs, pairs)

    def ratio(self, key: "RowKey") -> float:
        """The bytes of a row's pairs as a multiple of those of the plain pairs with which it is compared. A number of pairs of
        `budgets` was chosen so that they are equal."""
        sizes = {} if key.pairs in self.budgets else self.similarity_sizes.get(key.variant, {})
        return ratio_of(key.method, key.pairs, sizes)

    def shows(self, row: Row | MissingRow | RowKey) -> bool:
        """Whether the row has a place in the table, if it is one of `variants`."""
        return (
            row.method in self.methods
            and (row.method == FULL or self.pairs is None or row.pairs in self.pairs)
            and (row.image_model is None or self.other_image_models)
        )


# (key, metric) -> the published figure, or None.
PublishedOf = Callable[[RowKey, str], Published | None]


def study_table(
    layout: Layout,
    results: dict[str, list[Row]],
    published: PublishedOf,
    missing: Mapping[str, list[MissingRow]] | None = None,
    test_splits: Mapping[str, MeasuredSplit] | None = None,
) -> Table:
    """The table, with a section for each budget and image tower of the students, in which the best value of each metric is
    marked if all were measured on equal test splits and all sets have about equally many bytes.

    Args:
        results: variant -> its results so far. The cells of missing results are empty.
        missing: variant -> the rows that it plans and that have no result; a note names those that the table would have.
        test_splits: variant -> its test split, if it is known.
    """
    row_of = dict(results_in_table(layout, results))
    splits = splits_in_table(layout, results, test_splits or {})
    heads = _heads(layout)
    figures: list[_Figure | _Share] = [*_figures(layout, row_of, published), *_share(layout, row_of, results)]

    def compared_with(line: list[RowKey]) -> tuple[bool, int, str]:
        return line[0].method == FULL, layout.budget(line[0].pairs), line[0].image_model or ""

    sections = []
    for _, lines in groupby(_lines(list(row_of), layout), key=compared_with):
        compared = list(lines)
        best = _best_of(layout, compared, row_of, splits)
        sections.append(TableSection(rows=[_row(layout, line, heads, figures, best) for line in compared]))
    columns = [*heads, *(figure.column for figure in figures)]
    notes = [*_notes(layout, row_of, missing or {}, splits), *([SHARE_NOTE] if SHARE in columns else [])]
    return Table(title=layout.title, columns=columns, sections=sections, notes=notes)


@dataclass(frozen=True)
class _Figure:
    """A column of figures.

    Attributes:
        metric: name of the metric.
        value: the method or variant whose results the column shows; None: that of each row.
        published: for a column of published figures; None: the column shows ours.
    """

    column: Column
    metric: str
    value: str | None
    across: str | None
    row_of: dict[RowKey, Row]
    published: PublishedOf | None

    def cell(self, line: list[RowKey], best: dict[str, float | None]) -> Cell:
        key = next((of_row for of_row in line if self.value in (None, _value(of_row, self.across))), None)
        if key is None:
            return Text()
        if self.published:
            return self.published(key, self.metric) or Text()
        stat = self.row_of[key].metrics[self.metric]
        spreads = stat.model_dump(include={"std_runs", "std_students"})
        return Statistic(mean=stat.mean, best=stat.mean == best[self.metric], **spreads)


@dataclass(frozen=True)
class _Share:
    """The column of shares of full data, with a single key in each line."""

    cells: dict[RowKey, Cell]
    column: Column = SHARE

    def cell(self, line: list[RowKey], best: dict[str, float | None]) -> Cell:
        return self.cells[line[0]]


def _figures(layout: Layout, row_of: dict[RowKey, Row], published: PublishedOf) -> Iterator[_Figure]:
    """For each metric one column, or one for each value of `layout.across`; beside it the column of published figures, if there
    are any."""
    names = {"method": layout.methods, "variant": layout.variants}.get(layout.across or "")
    values = [name for name in names if any(_value(key, layout.across) == name for key in row_of)] if names else [None]
    for metric in layout.metrics:
        for value in values:
            of_column = [key for key in row_of if value in (None, _value(key, layout.across))]
            is_known = any(published(key, metric) is not None for key in of_column)
            for source in (None, published) if is_known else (None,):
                column = _column(metric, value, is_known, is_published=source is not None)
                yield _Figure(column, metric, value, layout.across, row_of, source)


def _share(layout: Layout, row_of: dict[RowKey, Row], results: dict[str, list[Row]]) -> list[_Share]:
    """The column of shares, if any row has one. Lines of several methods or variants have none."""
    cells = {key: share_cell(row, results.get(key.variant, [])) for key, row in row_of.items()}
    return [_Share(cells)] if layout.across is None and any(cell != Text() for cell in cells.values()) else []


def _best_of(
    layout: Layout, lines: list[list[RowKey]], row_of: dict[RowKey, Row], splits: Mapping[str, MeasuredSplit]
) -> dict[str, float | None]:
    """Metric -> the highest mean of a section; None if it has only one result, results on several test splits, or sets of which
    one has a learned similarity and so more bytes."""
    keys = [key for line in lines for key in line]
    one_split, equal_bytes = len({splits.get(key.variant) for key in keys}) == 1, are_equal(layout.ratio(key) for key in keys)
    is_comparable = len(keys) > 1 and one_split and equal_bytes
    return {
        metric: max(row_of[key].metrics[metric].mean for key in keys) if is_comparable else None for metric in layout.metrics
    }


def _row(
    layout: Layout,
    line: list[RowKey],
    heads: list[Column],
    figures: Sequence[_Figure | _Share],
    best: dict[str, float | None],
) -> TableRow:
    cells = [*(_label(head, line[0]) for head in heads), *(figure.cell(line, best) for figure in figures)]
    return TableRow(cells=cells, accent=line[0].method == DISTILLED and layout.across != "method")


def results_in_table(layout: Layout, results: dict[str, list[Row]]) -> Iterator[tuple[RowKey, Row]]:
    """The results that have a place in the table: full data first, then by the budget and the students' image tower, the
    experiment's own first. If all variants have the same result for full data, it is listed once, for ALL_VARIANTS."""
    rows = [
        (RowKey(variant, row.method, row.pairs, row.image_model), row)
        for variant in layout.variants
        for row in results[variant]
        if layout.shows(row)
    ]
    full = [row for key, row in rows if key.method == FULL]
    if layout.across != "variant" and len(full) == len(layout.variants) > 1 and all(row == full[0] for row in full):
        common = RowKey(ALL_VARIANTS, FULL, full[0].pairs, full[0].image_model)
        rows = [(common, full[0]), *((key, row) for key, row in rows if key.method != FULL)]
    variants = [ALL_VARIANTS, *layout.variants]

    def sort_key(result: tuple[RowKey, Row]) -> tuple[bool, int, str, int, int]:
        key, _ = result
        place = variants.index(key.variant), layout.methods.index(key.method)
        return key.method != FULL, layout.budget(key.pairs), key.image_model or "", *place

    yield from sorted(rows, key=sort_key)


def splits_in_table(
    layout: Layout, results: Mapping[str, list[Row]], test_splits: Mapping[str, MeasuredSplit]
) -> dict[str, MeasuredSplit]:
    """Of (variant -> its test split), those of the variants of the table that have results."""
    return {name: split for name, split in test_splits.items() if results.get(name) and name in layout.variants}


def incomplete_in_table(layout: Layout, row_of: Mapping[RowKey, Row], missing: Mapping[str, list[MissingRow]]) -> list[str]:
    """The sentence that names the rows of the table with fewer students than planned, if there are any.

    Args:
        missing: as for `study_table`.
    """
    absent = [(name, row) for name in layout.variants for row in missing.get(name, []) if layout.shows(row)]
    return incomplete([*((key.variant, row) for key, row in row_of.items()), *absent])


def _lines(keys: list[RowKey], layout: Layout) -> list[list[RowKey]]:
    """The keys of each line: a single one, or those that differ only in the value of `layout.across`."""
    if layout.across is None:
        return [[key] for key in keys]
    lines: dict[tuple[object, ...], list[RowKey]] = {}
    for key in keys:
        kept = key.variant if layout.across == "method" else key.method
        lines.setdefault((key.method == FULL, key.pairs, kept, key.image_model), []).append(key)
    return list(lines.values())


def _heads(layout: Layout) -> list[Column]:
    """The columns of labels. A label is left out if it is the same in all rows, or stands above the columns of figures."""
    heads = [Column(key="pairs", head="pairs", once=True)]
    if len(layout.variants) > 1:
        heads.append(Column(key="variant", head="variant", once=True))
    if layout.other_image_models:
        heads.append(Column(key="image_model", head="students' image tower"))
    if len(layout.methods) > 1:
        heads.append(Column(key="method", head="method"))
    return [head for head in heads if head.key != layout.across]


def _label(head: Column, key: RowKey) -> Cell:
    if head.key == "pairs":
        return Number(value=key.pairs)
    if head.key == "method":
        return Text(text=display_name(key.method))
    if head.key == "image_model":
        return Text(text=key.image_model or "the same")
    return Text(text=key.variant)


def _column(metric: str, value: str | None, has_published: bool, is_published: bool) -> Column:
    shown = metric_name(metric)
    key = "_".join(filter(None, [metric, value, "published" if is_published else ""]))
    if value is not None:
        head = f"{display_name(value)}, published" if is_published else display_name(value)
        return Column(key=key, head=head, group=shown, figures=True)
    if has_published:
        return Column(key=key, head="published" if is_published else "ours", group=shown, figures=True)
    return Column(key=key, head=shown, figures=True)


def _value(key: RowKey, across: str | None) -> str | None:
    return {"method": key.method, "variant": key.variant}.get(across or "")


def _notes(
    layout: Layout,
    row_of: dict[RowKey, Row],
    missing: Mapping[str, list[MissingRow]],
    splits: Mapping[str, MeasuredSplit],
) -> list[str]:
    """The sentences below the table, without that on shares.

    Args:
        missing: as for `study_table`.
        splits: variant -> its test split, for the variants of the table.
    """
    rows = list(row_of.values())
    unfinished = incomplete_in_table(layout, row_of, missing)
    sizes = _size_notes(layout, row_of)
    return [*_measured_notes(rows, splits), *unfinished, *repeated(rows), *averages_notes(rows), *sizes, *full_data_note(rows)]


def _measured_notes(rows: list[Row], splits: Mapping[str, MeasuredSplit]) -> list[str]:
    """The sentences that say on what recall is measured, and what ± means.

    Args:
        splits: variant -> its test split, for the variants of the table.
    """
    different = set(splits.values())
    if len(different) == 1:
        (split,) = different
        return [spread_note(rows, split), *filter(None, [coarseness(split.images)])]
    each = [f"{name} on {measured_on(split.images, split.captions)}" for name, split in splits.items()]
    if not each:
        return [spread_note(rows)]
    return [spread_note(rows), f"Recalls on different test splits cannot be compared. Measured: {'; '.join(each)}."]


def _size_notes(layout: Layout, row_of: Mapping[RowKey, Row]) -> list[str]:
    """The sentences on the bytes of the sets, if some have other bytes than as many plain pairs."""
    budgets = _budget_note(layout, {key.pairs for key in row_of if key.method != FULL})
    ratios = {f"for {key.variant} at {key.pairs:,} pairs": ratio for key in row_of if (ratio := layout.ratio(key)) != 1}
    similarity = similarity_note(list(ratios.items()), UNMARKED)
    are_stated = similarity or (budgets and any(layout.sizes.values()))
    return [*budgets, *similarity, *([COUNTED] if are_stated else [])]


def _budget_note(layout: Layout, shown: set[int]) -> list[str]:
    """A sentence on the numbers of pairs that are compared with another, with the sizes of both, so that readers see how far
    they are equal; none if no row has such a number."""
    compared = []
    for pairs, budget in sorted(layout.budgets.items()):
        sizes = [f"at most {size:,} bytes with {plain:,}" for plain, size in layout.sizes.get(pairs, {}).items()]
        compared += [": ".join([f"{pairs:,} pairs with {budget:,}", *sizes])] if pairs in shown else []
    return [f"Compared, counting what a loss learns of the pairs: {'; '.join(compared)}."] if compared else []
