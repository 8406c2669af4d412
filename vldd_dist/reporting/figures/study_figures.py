"""The figures of a study: each shows what one of its tables compares."""

from collections.abc import Mapping, Sequence

from vldd_dist.method_names import DISTILLED, FULL, display_name
from vldd_dist.reporting.data import MeasuredSplit, MissingRow, Row, Stat
from vldd_dist.reporting.figures.drawing import (
    BLUE,
    GREEN,
    GREY,
    LEVELS,
    LINES,
    ORANGE,
    PURPLE,
    RED,
    Plot,
    line_looks,
)
from vldd_dist.reporting.figures.recall_figures import SPREAD, Bar, Level, Line, colour_of, draw_bars, draw_lines, error_bar
from vldd_dist.reporting.tables.study_tables import Layout, RowKey, incomplete_in_table, results_in_table, splits_in_table

COLOURS = (BLUE, ORANGE, GREEN, RED, PURPLE, GREY)
CAPTION = f"Mean of the six test recalls. Error bars: {SPREAD}."

# A row of the table and its mean recall.
RowMean = tuple[RowKey, Stat]


def study_plots(
    layouts: Sequence[Layout],
    results: dict[str, list[Row]],
    missing: Mapping[str, list[MissingRow]] | None = None,
    test_splits: Mapping[str, MeasuredSplit] | None = None,
) -> list[Plot]:
    """The plots of tables. Tables that differ only in their metrics have the same plot, which is shown once.

    Args:
        results, missing, test_splits: as for `study_table`.
    """
    shown, drawn = [], []
    for layout in layouts:
        content = layout.variants, layout.methods, list(results_in_table(layout, results))
        if content not in shown and (plot := study_plot(layout, results, missing, test_splits)):
            shown.append(content)
            drawn.append(plot)
    return drawn


def study_plot(
    layout: Layout,
    results: dict[str, list[Row]],
    missing: Mapping[str, list[MissingRow]] | None = None,
    test_splits: Mapping[str, MeasuredSplit] | None = None,
) -> Plot | None:
    """Lines over the numbers of pairs, or bars if the table has only one budget. None if there are no results, or if they
    are on several test splits: side by side they would be compared, although they cannot be.

    Args:
        results, missing, test_splits: as for `study_table`.
    """
    row_of = dict(results_in_table(layout, results))
    measured = [(key, row.metrics["mean"]) for key, row in row_of.items()]
    limited = [(key, stat) for key, stat in measured if key.method != FULL]
    if not limited or len(set(splits_in_table(layout, results, test_splits or {}).values())) > 1:
        return None
    caption = " ".join([CAPTION, *incomplete_in_table(layout, row_of, missing or {})])
    summary = "; ".join(f"{_name(key, layout)}, {key.pairs:,} pairs: {stat.mean:.1f} %" for key, stat in measured) + "."
    full = [(key, stat) for key, stat in measured if key.method == FULL]
    if len({layout.budget(key.pairs) for key, _ in limited}) == 1:
        plot = Plot(layout.title, caption, summary)
        _bars(plot, layout, measured)
    else:
        plot = Plot(layout.title, f"{caption} Horizontal: full data." if full else caption, summary)
        _lines(plot, layout, limited, full)
    return plot


def _lines(plot: Plot, layout: Layout, limited: Sequence[RowMean], full: Sequence[RowMean]) -> None:
    of_name: dict[str, list[RowMean]] = {}
    for key, stat in limited:
        of_name.setdefault(_name(key, layout), []).append((key, stat))
    is_main = {name: measured[0][0].method == DISTILLED for name, measured in of_name.items()}
    # Distilled pairs get the first colours, as in the report of an experiment.
    looks = dict(zip(sorted(of_name, key=lambda name: not is_main[name]), line_looks(COLOURS, LINES), strict=False))
    lines = [
        Line(name, [(key.pairs, stat.mean, error_bar(stat)) for key, stat in measured], looks[name], is_main[name])
        for name, measured in of_name.items()
    ]
    # More lines than there are styles would not be distinguished in the legend.
    are_named = len(full) <= len(LEVELS)
    level_looks = line_looks((GREY,), LEVELS if are_named else LEVELS[:1])
    levels = [
        Level(_name(key, layout) if are_named else None, _name(key, layout), stat.mean, look)
        for (key, stat), look in zip(full, level_looks, strict=False)
    ]
    draw_lines(plot, lines, levels, sorted({layout.budget(key.pairs) for key, _ in limited}))


def _bars(plot: Plot, layout: Layout, measured: Sequence[RowMean]) -> None:
    """One bar for each row of the table, in the order of the rows."""
    bars = [Bar(_name(key, layout), stat.mean, error_bar(stat), colour_of(key.method)) for key, stat in measured]
    draw_bars(plot, bars)


def _name(key: RowKey, layout: Layout) -> str:
    """A name that distinguishes the row from the others in its table."""
    parts = [
        key.variant if len(layout.variants) > 1 else "",
        display_name(key.method) if len(layout.methods) > 1 else "",
        f"on {key.image_model}" if key.image_model else "",
    ]
    return ", ".join(filter(None, parts)) or display_name(key.method)
