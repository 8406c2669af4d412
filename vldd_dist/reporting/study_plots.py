"""The figures of a study: each shows what one of its tables compares."""

from collections.abc import Sequence

from vldd_dist.method_names import DISTILLED, FULL, display_name
from vldd_dist.reporting.data import Row, Stat
from vldd_dist.reporting.drawing import (
    BLUE,
    GREEN,
    GREY,
    LEVELS,
    LINES,
    ORANGE,
    PURPLE,
    RED,
    Bar,
    Plot,
    draw_bars,
    drawing,
    legend_below,
    line_looks,
)
from vldd_dist.reporting.plots import SPREAD, colour_of, label_budgets
from vldd_dist.reporting.study_tables import Layout, RowKey, results_in_table

COLOURS = (BLUE, ORANGE, GREEN, RED, PURPLE, GREY)
CAPTION = f"Mean of the six test recalls. Error bars: {SPREAD}."

Measured = tuple[RowKey, Stat]


def study_plots(layouts: Sequence[Layout], results: dict[str, list[Row]]) -> list[Plot]:
    """The plots of tables. Tables that differ only in their metrics have the same plot, which is shown once.

    Args:
        results: variant -> its results so far.
    """
    shown, drawn = [], []
    for layout in layouts:
        content = layout.variants, layout.methods, list(results_in_table(layout, results))
        if content not in shown and (plot := study_plot(layout, results)):
            shown.append(content)
            drawn.append(plot)
    return drawn


def study_plot(layout: Layout, results: dict[str, list[Row]]) -> Plot | None:
    """Lines over the numbers of pairs, or bars if the table has only one budget. None if there are no results.

    Args:
        results: variant -> its results so far.
    """
    measured = [(key, row.metrics["mean"]) for key, row in results_in_table(layout, results)]
    limited = [(key, stat) for key, stat in measured if key.method != FULL]
    if not limited:
        return None
    summary = "; ".join(f"{_name(key, layout)}, {key.pairs:,} pairs: {stat.mean:.1f} %" for key, stat in measured) + "."
    full = [(key, stat) for key, stat in measured if key.method == FULL]
    if len({layout.budget(key.pairs) for key, _ in limited}) == 1:
        plot = Plot(layout.title, CAPTION, summary)
        _bars(plot, layout, measured)
    else:
        plot = Plot(layout.title, f"{CAPTION} Horizontal: full data." if full else CAPTION, summary)
        _lines(plot, layout, limited, full)
    return plot


def _lines(plot: Plot, layout: Layout, limited: Sequence[Measured], full: Sequence[Measured]) -> None:
    lines: dict[str, list[Measured]] = {}
    for key, stat in limited:
        lines.setdefault(_name(key, layout), []).append((key, stat))
    # Distilled pairs get the first colours, as in the report of an experiment.
    named = sorted(lines, key=lambda name: lines[name][0][0].method != DISTILLED)
    looks = dict(zip(named, line_looks(COLOURS, LINES), strict=False))
    with drawing(plot, "pairs", "mean recall, %", height=3.9) as axes:
        for name, line in lines.items():
            pairs, means = [key.pairs for key, _ in line], [stat.mean for _, stat in line]
            is_main = line[0][0].method == DISTILLED
            axes.errorbar(
                pairs, means, [stat.spread or 0.0 for _, stat in line], **looks[name], label=name,
                markersize=4 if is_main else 3, linewidth=2 if is_main else 1.2, capsize=2,
            )  # fmt: skip
            plot.say_values(name, zip(pairs, means, strict=True), "pairs", " %")
        # More lines than there are styles would not be distinguished in the legend.
        are_named = len(full) <= len(LEVELS)
        for (key, stat), look in zip(full, line_looks((GREY,), LEVELS if are_named else LEVELS[:1]), strict=False):
            axes.axhline(stat.mean, **look, linewidth=1.2, label=_name(key, layout) if are_named else None)
            plot.values.append((limited[-1][0].pairs, stat.mean, f"{_name(key, layout)}: {stat.mean:.4g} %"))
        label_budgets(axes, sorted({layout.budget(key.pairs) for key, _ in limited}))
        axes.set_ylim(bottom=0)
        legend_below(axes)


def _bars(plot: Plot, layout: Layout, measured: Sequence[Measured]) -> None:
    """One bar for each row of the table, in the order of the rows."""
    bars = [Bar(_name(key, layout), stat.mean, stat.spread or 0.0, colour_of(key.method)) for key, stat in measured]
    draw_bars(plot, "mean recall, %", " %", bars)


def _name(key: RowKey, layout: Layout) -> str:
    """A name that distinguishes the row from the others in its table."""
    parts = [
        key.variant if len(layout.variants) > 1 else "",
        display_name(key.method) if len(layout.methods) > 1 else "",
        f"on {key.image_model}" if key.image_model else "",
    ]
    return ", ".join(filter(None, parts)) or display_name(key.method)
