"""The figures of mean recall that reports and studies have in common: lines over the numbers of pairs, and bars."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from vldd_dist.method_names import DISTILLED, FULL
from vldd_dist.reporting.data import Stat
from vldd_dist.reporting.figures.drawing import BLUE, GREY, INK, ORANGE, Plot, columns, drawing, legend_below

# What the error bars show.
SPREAD = (
    "the standard deviation over experts, selections or distillations or, where there is only one, over its students; rows of "
    "one student have none"
)
MEAN_RECALL = "mean recall, %"
# Inches.
BAR_HEIGHT, BARS_MARGIN = 0.26, 0.2


@dataclass(frozen=True)
class Line:
    """A line with error bars.

    Attributes:
        points: (number of pairs, mean, `error_bar`) in ascending order.
        look: one of `line_looks`.
        is_main: whether it is drawn thicker than the others.
    """

    name: str
    points: list[tuple[int, float, float]]
    look: dict[str, Any]
    is_main: bool


@dataclass(frozen=True)
class Level:
    """A horizontal line.

    Attributes:
        name: its name in the legend; None: it is not in the legend.
        said: its name beside its value.
    """

    name: str | None
    said: str
    mean: float
    look: dict[str, Any]


@dataclass(frozen=True)
class Bar:
    """A horizontal bar, as long as its mean, with the `error_bar` at its end."""

    name: str
    mean: float
    spread: float
    colour: str


def error_bar(stat: Stat) -> float:
    """The length of a row's error bar; NaN, with which none is drawn, if the row has a single student."""
    return math.nan if stat.spread is None else stat.spread


def colour_of(method: str) -> str:
    """The colour of a method's bar."""
    return {FULL: GREY, DISTILLED: BLUE}.get(method, ORANGE)


def draw_lines(plot: Plot, lines: Sequence[Line], levels: Sequence[Level], pair_counts: Sequence[int]) -> None:
    """Draw lines over the numbers of pairs, and make each point show its value.

    Args:
        pair_counts: the numbers of pairs that the x axis names, ascending.
    """
    with drawing(plot, "pairs", MEAN_RECALL) as axes:
        for line in lines:
            pairs, means, spreads = columns(line.points, 3)
            axes.errorbar(
                pairs, means, spreads, **line.look, markersize=5 if line.is_main else 3,
                linewidth=2.2 if line.is_main else 1.2, capsize=2, label=line.name,
            )  # fmt: skip
            plot.say_values(line.name, zip(pairs, means, strict=True), "pairs", " %")
        for level in levels:
            axes.axhline(level.mean, **level.look, linewidth=1.2, label=level.name)
            plot.values.append((pair_counts[-1], level.mean, f"{level.said}: {level.mean:.4g} %"))
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(pair_counts))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda pairs, _: f"{pairs:,.0f}"))
        axes.set_ylim(bottom=0)
        legend_below(axes)


def draw_bars(plot: Plot, bars: Sequence[Bar]) -> None:
    """Draw the bars from top to bottom, and make each show its value."""
    with drawing(plot, MEAN_RECALL, "", height=BARS_MARGIN + BAR_HEIGHT * len(bars)) as axes:
        places = range(len(bars))
        means = [bar.mean for bar in bars]
        spreads = [bar.spread for bar in bars]
        axes.barh(places, means, xerr=spreads, color=[bar.colour for bar in bars], ecolor=INK, height=0.7)
        axes.set_axisbelow(True)
        axes.set_yticks(places, [bar.name for bar in bars])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        plot.values += [(bar.mean, place, f"{bar.name}: {bar.mean:.4g} %") for place, bar in enumerate(bars)]
