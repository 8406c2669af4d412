"""Draws figures as inline SVG. The same data gives the same bytes, lines and text use the page's text colour, and points show
their values when the pointer is over them."""

import io
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

import matplotlib
from markupsafe import escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# These have a contrast of at least 3:1 on white and on near-black.
BLUE, ORANGE, GREEN, RED, PURPLE, OLIVE, GREY = "#3d85c6", "#d27c1e", "#2e9b6a", "#d9536a", "#9673c4", "#8c8a1e", "#848b94"
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
# Lengths in matplotlib's SVG are in points.
POINTS_PER_INCH = 72
# Radius in points of the area around a point in which its value is shown, and the largest number of such areas of a curve.
VALUE_RADIUS, VALUES_OF_A_CURVE = 5, 60
# (line style, marker) of lines, and of horizontal lines, each time that their colours repeat.
LINES = (("-", "o"), ("-.", "s"), (":", "^"))
LEVELS = (("--", ""), ("-.", ""), (":", ""))


@dataclass
class Plot:
    """A finished figure.

    Attributes:
        title, caption: what it shows and how to read it.
        summary: text alternative for readers who cannot see it.
        svg: markup of one `<svg>` element.
        values: (x, y, text) of points that show their value; x and y are data coordinates.
    """

    title: str
    caption: str
    summary: str
    svg: str = field(default="", repr=False)
    values: list[tuple[float, float, str]] = field(default_factory=list, repr=False)

    def say_values(self, name: str, points: Iterable[tuple[float, float]], x_name: str, unit: str = "") -> None:
        """Make a curve show its values; if it has many points, at some of them, evenly spaced."""
        points = list(points)
        stride = -(-len(points) // VALUES_OF_A_CURVE) or 1
        for x, y in points[::stride]:
            self.values.append((x, y, f"{name}, {x_name} {x:,g}: {y:.4g}{unit}"))


@contextmanager
def drawing(plot: Plot, x_label: str, y_label: str, height: float = 3.3) -> Iterator[Axes]:
    """Yields axes to draw on, and sets `plot.svg` afterwards. `height` is that of the figure, in inches."""
    # The salt makes ids reproducible, and unique among the figures of a page: tables of a study may share a title, but then
    # they show other results.
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": f"{plot.title}\n{plot.summary}"}):
        figure = Figure(figsize=(5.4, height), dpi=POINTS_PER_INCH, layout="constrained")
        axes = figure.add_subplot()
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        yield axes
        file = io.StringIO()
        no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=no_metadata)
        plot.svg = _inline(file.getvalue()).replace("</svg>", f"{_areas(plot, axes, height)}</svg>")


def as_file(plot: Plot) -> bytes:
    """The figure as an SVG file, legible on white and on near-black."""
    return plot.svg.replace("currentColor", GREY).encode() + b"\n"


def line_looks(colours: Sequence[str], styles: Sequence[tuple[str, str]]) -> Iterator[dict[str, Any]]:
    """matplotlib's arguments for successive lines, without end. As many lines differ as there are pairs of a colour and a
    (line style, marker)."""
    for style, marker in cycle(styles):
        for colour in colours:
            yield {"color": colour, "linestyle": style, "marker": marker}


def columns(points: Iterable[tuple[float, ...]], count: int) -> list[list[float]]:
    """The `count` coordinates of the points, each as a list; empty lists if there are no points."""
    return [list(column) for column in zip(*points, strict=True)] or [[] for _ in range(count)]


def legend_below(axes: Axes) -> None:
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3)


def _areas(plot: Plot, axes: Axes, height: float) -> str:
    """A transparent circle around each value, which shows its text when the pointer is over it."""
    if not plot.values:
        return ""
    circles, positions = [], axes.transData.transform([(x, y) for x, y, _ in plot.values])
    for (x, y), (_, _, text) in zip(positions, plot.values, strict=True):
        # In SVG, y grows downwards.
        place = f'cx="{x:.1f}" cy="{height * POINTS_PER_INCH - y:.1f}" r="{VALUE_RADIUS}"'
        circles.append(f'<circle class="value" fill="transparent" {place}><title>{escape(text)}</title></circle>')
    return "".join(circles)


def _inline(document: str) -> str:
    """Turn an SVG document into an element for a page, without the prolog, the fixed size, and unreferenced group ids."""
    svg = document[document.index("<svg") :]
    head, body = svg.split(">", 1)
    head = re.sub(r'\s(width|height)="[^"]*"', "", head)
    return f'{head} aria-hidden="true" focusable="false">' + re.sub(r'<g id="[^"]*"', "<g", body).replace(INK, "currentColor")
