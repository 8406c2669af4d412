"""The report's figures as inline SVG: the same data gives the same bytes, and lines and text take the page's text colour."""

import io
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, cycle
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vldd_dist.recall_metrics import DISTILLED, FULL
from vldd_dist.reporting.data import DistillationCurve, ExpertCurve, ReportData, display_name

# A contrast of at least 3:1 on white and on near-black.
BLUE, ORANGE, GREEN, RED, PURPLE, GREY = "#3d85c6", "#d27c1e", "#2e9b6a", "#d9536a", "#9673c4", "#848b94"
COLOURS = (ORANGE, GREEN, RED, PURPLE, GREY)
# Of coresets, in the order of the description; the first again after the last.
CORESET_COLOURS = (ORANGE, GREEN, RED, PURPLE)
# Placeholder for the text colour in matplotlib's output, replaced by currentColor.
INK = "#010203"
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.15,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "legend.fontsize": 9,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "grid.color"), INK),
}
SMOOTHED_FRACTION = 0.05


@dataclass
class Plot:
    """A finished figure.

    Attributes:
        title, caption: what it shows and how to read it.
        summary: text alternative for readers who cannot see it.
        svg: markup of one `<svg>` element.
    """

    title: str
    caption: str
    summary: str
    svg: str = field(default="", repr=False)


def plots(data: ReportData) -> list[Plot]:
    """Every figure of a report that has data."""
    drawn = [experts_plot(data.experts)] if data.experts else []
    for pairs in sorted({run.pairs for run in data.runs}):
        runs = [run for run in data.runs if run.pairs == pairs]
        levels: dict[str, float] = {
            row.method: row.metrics["mean"].mean
            for row in data.rows
            if row.image_model is None and (row.method == FULL or (row.method != DISTILLED and row.pairs == pairs))
        }
        drawn.append(validation_plot(runs, levels))
        for run in runs:
            drawn += [loss_plot(run), *([learned_plot(run)] if run.learned else [])]
    return drawn


def loss_plot(run: DistillationCurve) -> Plot:
    """The outer loss against outer steps: total and its terms, raw (light) and smoothed."""
    window = max(1, int(len(run.loss) * SMOOTHED_FRACTION))
    plot = Plot(
        f"Outer loss, {run.pairs:,} pairs, seed {run.seed}",
        f"Each outer step (light) and the mean of the last {window}."
        " In trajectory matching a tower's term of 1 means that the student ended as far from the expert as it started.",
        f"The loss goes from {run.loss[0]:.3g} to {run.loss[-1]:.3g} in {len(run.loss):,} outer steps.",
    )
    with _drawing(plot, "outer step", "outer loss") as axes:
        steps = np.arange(1, len(run.loss) + 1)
        lines, colours = {"total": run.loss, **run.terms}, chain([BLUE], cycle(COLOURS))
        for (label, values), colour in zip(lines.items(), colours, strict=False):
            axes.plot(steps, values, color=colour, alpha=0.3, linewidth=0.8)
            axes.plot(steps, _running_mean(values, window), color=colour, label=label)
        axes.legend()
    return plot


def validation_plot(runs: list[DistillationCurve], levels: dict[str, float]) -> Plot:
    """Validation recall over outer steps, for all runs of one number of pairs.

    Args:
        runs: one for each seed.
        levels: mean test recall of the baselines and of full data, drawn as horizontal lines.
    """
    best = max((recall for run in runs for _, recall in run.validation), default=float("nan"))
    plot = Plot(
        f"Recall during distillation, {runs[0].pairs:,} pairs",
        "Mean validation recall of students trained on the pairs so far. Dashed: mean test recall of the full data "
        "and of coresets of this size.",
        f"Best validation recall {best:.1f} %; "
        + ", ".join(f"{display_name(method)} {level:.1f} %" for method, level in levels.items())
        + ".",
    )
    with _drawing(plot, "outer step", "mean recall, %", height=3.9) as axes:
        for shade, run in zip(np.linspace(1.0, 0.45, len(runs)), runs, strict=True):
            steps, recalls = _columns(run.validation, 2)
            axes.plot(steps, recalls, color=BLUE, alpha=shade, marker="o", markersize=3, label=f"seed {run.seed}")
        colours = cycle(CORESET_COLOURS)
        for method, level in levels.items():
            colour = GREY if method == FULL else next(colours)
            axes.axhline(level, color=colour, linestyle="--", linewidth=1.2, label=display_name(method))
        axes.set_ylim(bottom=0)
        _legend_below(axes)
    return plot


def learned_plot(run: DistillationCurve) -> Plot:
    """What is learned beside the pairs against outer steps."""
    plot = Plot(
        f"Learned beside the pairs, {run.pairs:,} pairs, seed {run.seed}",
        "What all pairs have in common, after each outer step.",
        "; ".join(f"{_in_words(name)} from {values[0]:.3g} to {values[-1]:.3g}" for name, values in run.learned.items()) + ".",
    )
    with _drawing(plot, "outer step", "value") as axes:
        for colour, (name, values) in zip(cycle(COLOURS), run.learned.items(), strict=False):
            axes.plot(np.arange(1, len(values) + 1), values, color=colour, label=_in_words(name))
        axes.legend()
    return plot


def _in_words(name: str) -> str:
    return name.replace("inner_lr_", "inner learning rate, ").replace("_", " ")


def experts_plot(experts: list[ExpertCurve]) -> Plot:
    """Validation recall of every expert after each epoch."""
    last = [expert.validation_mean[-1] for expert in experts]
    plot = Plot(
        "Experts",
        "Mean validation recall after each epoch on all real pairs, one line an expert; epoch 0 is the start.",
        f"{len(experts)} experts end between {min(last):.1f} and {max(last):.1f} %.",
    )
    with _drawing(plot, "epoch", "mean recall, %") as axes:
        for expert in experts:
            axes.plot(expert.epochs, expert.validation_mean, color=BLUE, alpha=max(0.5, 1 / len(experts)))
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return plot


@contextmanager
def _drawing(plot: Plot, x_label: str, y_label: str, height: float = 3.3) -> Iterator[Axes]:
    """Yields axes to draw on, and sets `plot.svg` afterwards. `height` of the figure is in inches."""
    # The salt makes ids reproducible, and unique among the figures of a page.
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": plot.title}):
        figure = Figure(figsize=(5.4, height), layout="constrained")
        axes = figure.add_subplot()
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        yield axes
        file = io.StringIO()
        no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=no_metadata)
    plot.svg = _inline(file.getvalue())


def _inline(document: str) -> str:
    """Turn an SVG document into an element of a page: without prolog, fixed size and unreferenced group ids."""
    svg = document[document.index("<svg") :]
    head, body = svg.split(">", 1)
    head = re.sub(r'\s(width|height)="[^"]*"', "", head)
    return f'{head} aria-hidden="true" focusable="false">' + re.sub(r'<g id="[^"]*"', "<g", body).replace(INK, "currentColor")


def _legend_below(axes: Axes) -> None:
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3)


def _columns(points: Iterable[tuple[float, ...]], count: int) -> list[list[float]]:
    return [list(column) for column in zip(*points, strict=True)] or [[] for _ in range(count)]


def _running_mean(values: list[float], window: int) -> np.ndarray:
    """Mean of each value and the up to `window` - 1 before it."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)
