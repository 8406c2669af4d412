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
from matplotlib.ticker import MaxNLocator

# These have a contrast of at least 3:1 on white and on near-black.
BLUE, ORANGE, GREEN, RED, PURPLE, OLIVE, GREY = "#3d85c6", "#d27c1e", "#2e9b6a", "#d9536a", "#9673c4", "#8c8a1e", "#848b94"
# Of text in files, which do not know the colours of the page: the contrast is 4.3:1 on white and on GitHub's dark ground alike.
FILE_INK = "#737a82"
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
# Inches: the width of a figure, the height of its axes unless said otherwise, and the space above and below them (for the
# numbers and the name of the x axis) without a legend. All are fixed, so that axes beside each other on a page begin and end at
# the same heights.
WIDTH, AXES_HEIGHT, ABOVE, BELOW = 5.4, 2.65, 0.12, 0.55
# Of a legend below the axes: the height of a line and of the space around all lines, in inches, and the names in a line.
LEGEND_LINE, LEGEND_SPACE, LEGEND_NAMES = 0.2, 0.2, 3
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
def drawing(plot: Plot, x_label: str, y_label: str, height: float = AXES_HEIGHT) -> Iterator[Axes]:
    """Yields axes to draw on, and sets `plot.svg` afterwards. `height` is that of the axes, in inches."""
    # The salt makes ids reproducible, and unique among the figures of a page: tables of a study may share a title, but then
    # they show other results.
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": f"{plot.title}\n{plot.summary}"}):
        figure = Figure(figsize=(WIDTH, ABOVE + height + BELOW), dpi=POINTS_PER_INCH, layout="constrained")
        axes = figure.add_subplot()
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        yield axes
        # The layout leaves as much space at the sides as the labels need; above and below it would differ between figures.
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        full, place = figure.get_figheight(), axes.get_position()
        axes.set_position((place.x0, 1 - (ABOVE + height) / full, place.width, height / full))
        file = io.StringIO()
        no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=no_metadata)
        plot.svg = _inline(file.getvalue()).replace("</svg>", f"{_areas(plot, axes, full)}</svg>")


def as_file(plot: Plot) -> bytes:
    """The figure as an SVG file of a fixed size, legible on white and on near-black."""
    sized = re.sub(r'viewBox="0 0 (\S+) (\S+)"', r'\g<0> width="\1pt" height="\2pt"', plot.svg, count=1)
    return sized.replace("currentColor", FILE_INK).encode() + b"\n"


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
    """Add a legend below the axes, and make the figure as much higher."""
    handles, names = axes.get_legend_handles_labels()
    figure = axes.get_figure(root=True)
    assert figure is not None
    lines = -(-len(names) // LEGEND_NAMES)
    figure.set_figheight(figure.get_figheight() + LEGEND_SPACE + LEGEND_LINE * lines)
    figure.legend(handles, names, loc="outside lower center", ncols=LEGEND_NAMES)


def whole_numbers(axes: Axes) -> None:
    """The x axis is of things that are counted: steps or epochs."""
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))


def _areas(plot: Plot, axes: Axes, height: float) -> str:
    """A transparent circle around each value, which shows its text when the pointer is over it. `height` is that of the
    figure, in inches."""
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
