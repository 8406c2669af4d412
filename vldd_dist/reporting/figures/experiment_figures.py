"""The figures of an experiment's report."""

from collections.abc import Sequence
from itertools import chain, cycle
from statistics import fmean

import numpy as np

from vldd_dist.method_names import DISTILLED, FULL, display_name
from vldd_dist.reporting.data import DistillationCurve, ExpertCurve, MissingRow, ReportData, Row
from vldd_dist.reporting.figures.drawing import (
    BLUE,
    GREEN,
    GREY,
    LEVELS,
    LINES,
    OLIVE,
    ORANGE,
    PURPLE,
    RED,
    Plot,
    columns,
    drawing,
    legend_below,
    line_looks,
    whole_numbers,
)
from vldd_dist.reporting.figures.recall_figures import SPREAD, Bar, Level, Line, colour_of, draw_bars, draw_lines, error_bar
from vldd_dist.reporting.tables.recall_table import incomplete

COLOURS = (ORANGE, GREEN, RED, PURPLE, GREY)
# Colours of coresets, in the order of the description; after the last they repeat in another line style. There is one for each
# coreset that an experiment has by default.
CORESET_COLOURS = (ORANGE, GREEN, RED, PURPLE, OLIVE)
SMOOTHED_FRACTION = 0.05


def plots(data: ReportData) -> list[Plot]:
    """All figures for which there is data; that of recall comes first."""
    drawn = [recall_plot(data.rows, data.missing)] if has_recall_plot(data.rows) else []
    drawn += [experts_plot(data.experts)] if data.experts else []
    for pairs in sorted({curve.pairs for curve in data.distillations}):
        curves = [curve for curve in data.distillations if curve.pairs == pairs]
        levels = {FULL: fmean(expert.validation_mean[-1] for expert in data.experts)} if data.experts else {}
        levels |= {level.method: level.mean for level in data.validation if level.pairs == pairs}
        drawn.append(validation_plot(curves, levels))
        for curve in curves:
            drawn += [loss_plot(curve), *([learned_plot(curve)] if curve.learned else [])]
    return drawn


def has_recall_plot(rows: list[Row]) -> bool:
    """Whether there are results of distilled pairs to draw."""
    return any(row.method == DISTILLED and row.image_model is None for row in rows)


def recall_plot(rows: list[Row], missing: Sequence[MissingRow] = ()) -> Plot:
    """Mean test recall: against the number of pairs, with a line for each method and a horizontal line for full data, or, if
    there is only one number of pairs, as a bar for each method.

    Args:
        rows: at least one of them is of distilled pairs. Rows with other image towers are left out.
        missing: planned rows without a student, which the caption names.
    """
    own = [row for row in rows if row.image_model is None]
    limited = sorted((row for row in own if row.method != FULL), key=lambda row: row.pairs)
    pair_counts = sorted({row.pairs for row in limited})
    title, x = "Recall against pairs", " against the number of pairs they were trained on"
    full = " Dashed: full data (the experts, trained on all images)."
    if len(pair_counts) == 1:
        title, x, full = f"Recall of {pair_counts[0]:,} pairs", "", " Full data: the experts, trained on all images."
    if all(row.method != FULL for row in own):
        full = ""
    planned: list[Row | MissingRow] = [*own, *(row for row in missing if row.image_model is None)]
    unfinished = incomplete(("", row) for row in planned)
    plot = Plot(
        title,
        " ".join([f"Mean test recall of students{x}. Error bars: {SPREAD}.{full}", *unfinished]),
        "; ".join(
            f"{display_name(row.method)}, {row.pairs:,} pairs: {row.metrics['mean'].mean:.1f} %"
            for row in own
            if row.method == DISTILLED or row.method == FULL
        )
        + ".",
    )
    if len(pair_counts) == 1:
        _recall_bars(plot, own)
    else:
        _recall_lines(plot, own, limited, pair_counts)
    return plot


def _recall_bars(plot: Plot, own: list[Row]) -> None:
    """A bar for each row: full data first, distilled pairs last."""
    bars = [
        Bar(
            _full_data_name(row) if row.method == FULL else display_name(row.method),
            row.metrics["mean"].mean,
            error_bar(row.metrics["mean"]),
            colour_of(row.method),
        )
        for row in sorted(own, key=lambda row: (row.method != FULL, row.method == DISTILLED))
    ]
    draw_bars(plot, bars)


def _recall_lines(plot: Plot, own: list[Row], limited: list[Row], pair_counts: list[int]) -> None:
    """A line for each method, distilled pairs last."""
    methods = [*dict.fromkeys(row.method for row in own if row.method not in (FULL, DISTILLED)), DISTILLED]
    looks, lines = line_looks(CORESET_COLOURS, LINES), []
    for method in methods:
        stats = [(row.pairs, row.metrics["mean"]) for row in limited if row.method == method]
        points = [(pairs, stat.mean, error_bar(stat)) for pairs, stat in stats]
        is_main = method == DISTILLED
        look = {"color": BLUE, "marker": "o"} if is_main else next(looks)
        lines.append(Line(display_name(method), points, look, is_main))
    levels = [
        Level(
            _full_data_name(row),
            f"full data, {row.pairs:,} images",
            row.metrics["mean"].mean,
            {"color": GREY, "linestyle": "--"},
        )
        for row in own
        if row.method == FULL
    ]
    draw_lines(plot, lines, levels, pair_counts)


def _full_data_name(row: Row) -> str:
    return f"full data ({row.pairs:,})"


def loss_plot(curve: DistillationCurve) -> Plot:
    """The outer loss and its terms against outer steps, raw (light) and smoothed."""
    window = max(1, int(len(curve.loss) * SMOOTHED_FRACTION))
    plot = Plot(
        f"Outer loss, {curve.pairs:,} pairs, {curve.name}",
        f"Thin: the loss of each outer step. Thick: its mean over the last {window} steps."
        " In trajectory matching, a term of 1 means that the student's tower ended as far from the expert's as it started.",
        f"The loss goes from {curve.loss[0]:.3g} to {curve.loss[-1]:.3g} in {len(curve.loss):,} outer steps.",
    )
    with drawing(plot, "outer step", "outer loss") as axes:
        steps = np.arange(1, len(curve.loss) + 1)
        # A term that is the whole loss would hide its line.
        terms = {name: values for name, values in curve.terms.items() if not np.allclose(values, curve.loss)}
        lines, colours = {"total": curve.loss, **terms}, chain([BLUE], cycle(COLOURS))
        for (label, values), colour in zip(lines.items(), colours, strict=False):
            axes.plot(steps, values, color=colour, alpha=0.3, linewidth=0.8)
            axes.plot(steps, _running_mean(values, window), color=colour, label=label)
            plot.say_values(label, zip(steps, _running_mean(values, window), strict=True), "step")
        whole_numbers(axes)
        axes.legend()
    return plot


def validation_plot(curves: list[DistillationCurve], levels: dict[str, float]) -> Plot:
    """Validation recall against outer steps, for all distillations with one number of pairs.

    Args:
        curves: one for each seed and phase.
        levels: mean validation recall of experts (full data) and of coresets, drawn as horizontal lines.
    """
    best = max((recall for curve in curves for _, recall in curve.validation), default=float("nan"))
    plot = Plot(
        f"Recall during distillation, {curves[0].pairs:,} pairs",
        "Mean validation recall of students trained on the pairs at each point. Horizontal: mean validation recall of experts "
        "(full data) and of students of coresets of this size. Test recalls differ from these.",
        f"Best validation recall {best:.1f} %; "
        + ", ".join(f"{display_name(method)} {level:.1f} %" for method, level in levels.items())
        + ".",
    )
    with drawing(plot, "outer step", "mean recall, %") as axes:
        for shade, curve in zip(np.linspace(1.0, 0.45, len(curves)), curves, strict=True):
            steps, recalls = columns(curve.validation, 2)
            axes.plot(steps, recalls, color=BLUE, alpha=shade, marker="o", markersize=3, label=curve.name)
            plot.say_values(curve.name, curve.validation, "step", " %")
        looks = line_looks(CORESET_COLOURS, LEVELS)
        for method, level in levels.items():
            look = {"color": GREY, "linestyle": "--"} if method == FULL else next(looks)
            axes.axhline(level, **look, linewidth=1.2, label=display_name(method))
        axes.set_ylim(bottom=0)
        whole_numbers(axes)
        legend_below(axes)
    return plot


def learned_plot(curve: DistillationCurve) -> Plot:
    """Learned numbers besides the pairs against outer steps."""
    plot = Plot(
        f"Learned besides the pairs, {curve.pairs:,} pairs, {curve.name}",
        "Learned numbers that all pairs share, after each outer step.",
        "; ".join(f"{_in_words(name)} from {values[0]:.3g} to {values[-1]:.3g}" for name, values in curve.learned.items())
        + ".",
    )
    with drawing(plot, "outer step", "value") as axes:
        for colour, (name, values) in zip(cycle(COLOURS), curve.learned.items(), strict=False):
            axes.plot(np.arange(1, len(values) + 1), values, color=colour, label=_in_words(name))
            plot.say_values(_in_words(name), enumerate(values, 1), "step")
        whole_numbers(axes)
        axes.legend()
    return plot


def _in_words(name: str) -> str:
    return name.replace("inner_lr_", "inner learning rate, ").replace("_", " ")


def experts_plot(experts: list[ExpertCurve]) -> Plot:
    """Validation recall of each expert after each epoch."""
    last = [expert.validation_mean[-1] for expert in experts]
    plot = Plot(
        "Experts",
        "Mean validation recall of each expert after each epoch of training on all real pairs; epoch 0 is before training.",
        f"{len(experts)} experts end between {min(last):.1f} and {max(last):.1f} %.",
    )
    with drawing(plot, "epoch", "mean recall, %") as axes:
        for expert in experts:
            axes.plot(expert.epochs, expert.validation_mean, color=BLUE, alpha=max(0.5, 1 / len(experts)))
            plot.say_values(f"expert {expert.expert}", zip(expert.epochs, expert.validation_mean, strict=True), "epoch", " %")
        axes.set_ylim(bottom=0)
        whole_numbers(axes)
    return plot


def _running_mean(values: list[float], window: int) -> np.ndarray:
    """For each value, the mean of it and of up to `window` - 1 values before it."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)
