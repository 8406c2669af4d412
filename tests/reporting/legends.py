"""The looks of the lines in the legends of plots."""

import pytest
from matplotlib.axes import Axes

from vldd_dist.reporting.figures import experiment_figures, recall_figures


def looks_in_legends(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """A list that gets the (colour, line style) of each line in the legends below the plots."""
    looks: list[tuple[str, str]] = []

    def record(axes: Axes) -> None:
        lines = [handle[0] if isinstance(handle, tuple) else handle for handle in axes.get_legend_handles_labels()[0]]
        looks.extend((line.get_color(), line.get_linestyle()) for line in lines)

    for module in (experiment_figures, recall_figures):
        monkeypatch.setattr(module, "legend_below", record)
    return looks
