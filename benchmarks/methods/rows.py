"""The rows of the comparison of methods."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.methods.method_runs import MethodRun

KINDS = ("full", "coreset", "published", "changed", "ours", "ablation")
BILEVEL = "bilevel"
# Published methods with changes: PTM-ST with another start and more inner steps.
CHANGED = ("ptm-st-k-means",)


class Row(NamedTuple):
    """A line of the table.

    Attributes:
        kind: one of `KINDS`; "ours" is bilevel alone.
        pairs: number of pairs; 0 for full data.
        budget: number of plain pairs that take as many bytes, with which the row is compared; 0 for full data.
        means: means of six test recalls, percent: one for each distillation (over its students), or one for each student if
            nothing is distilled.
        students: standard deviation over the students of a distillation, averaged over distillations.
        outer_steps: outer steps of a distillation.
        rate: the multiple of the outer learning rates.
        size: size of the pairs, bytes.
        seconds: CPU seconds of a distillation.
        images: mean of six recalls for each test image, percent, averaged over `means`.
        experts_seconds: wall seconds of the experts that it takes, with one thread each; 0 if none.
        full: mean of full data with the same heads, percent.
    """

    name: str
    kind: str
    pairs: int
    budget: int
    means: list[float]
    images: list[float]
    students: float | None = None
    outer_steps: int | None = None
    rate: float | None = None
    size: int | None = None
    seconds: float | None = None
    experts_seconds: float | None = None
    full: float = math.nan

    @property
    def mean(self) -> float:
        return statistics.mean(self.means)

    @property
    def deviation(self) -> float | None:
        return deviation(self.means)


def deviation(values: Sequence[float]) -> float | None:
    """The sample standard deviation (divisor n - 1); None for a single value."""
    return statistics.stdev(values) if len(values) > 1 else None


def mean_of_images(of_runs: Sequence[list[float]]) -> list[float]:
    """The mean over runs for each image."""
    return [statistics.mean(values) for values in zip(*of_runs, strict=True)]


def row_of(runs: Sequence[MethodRun]) -> Row:
    first = runs[0]
    if first.method == BILEVEL:
        kind = "ours"
    elif first.method in CHANGED:
        kind = "changed"
    else:
        kind = "ablation" if first.method.startswith(BILEVEL) else "published"
    students = statistics.mean(deviation(run.recalls) or 0.0 for run in runs) if len(first.recalls) > 1 else None
    seconds = statistics.median(run.seconds for run in runs)
    means = [run.mean for run in runs]
    row = Row(first.method, kind, first.pairs, first.budget, means, mean_of_images([run.images for run in runs]), students)
    return row._replace(outer_steps=first.outer_steps, rate=first.rate, size=first.size, seconds=seconds)
