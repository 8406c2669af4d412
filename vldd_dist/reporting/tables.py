"""The recall table: as JSON, for a terminal, in Markdown. The HTML page makes its own from `budgets`."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from vldd_dist.recall_metrics import METRICS
from vldd_dist.reporting.data import DISTILLED, FULL, ReportData, Row, display_name, metric_name

Cell = TypeVar("Cell", str, Text)
NOTE = "Test recall in percent; ± is the population standard deviation over runs."


@dataclass(frozen=True)
class Budget:
    """Rows that are compared: students with the same image tower, trained on the same number of pairs."""

    pairs: int
    image_model: str | None
    rows: list[Row]

    @property
    def label(self) -> str:
        return f"{self.pairs:,} pairs" + (f" on {self.image_model}" if self.image_model else "")

    def is_best(self, row: Row, metric: str) -> bool:
        """Whether no other row has a higher mean; False if there is no other row, and of metrics beside recall."""
        return (
            metric in METRICS
            and len(self.rows) > 1
            and row.metrics[metric].mean == max(other.metrics[metric].mean for other in self.rows)
        )


@dataclass(frozen=True)
class Comparison:
    """Mean recall of distilled pairs, of the best coreset of the same size and of full data, with the experiment's towers."""

    pairs: int
    distilled: float
    coreset: Row | None
    full: Row | None


def budgets(rows: list[Row]) -> list[Budget]:
    """Group rows: full data first, then by ascending number of pairs; then the same for each other image tower. Within a
    budget coresets keep their order, and distilled pairs come last."""
    groups: dict[tuple[str, bool, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.image_model or "", row.method != FULL, row.pairs), []).append(row)
    return [
        Budget(pairs, model or None, sorted(groups[model, limited, pairs], key=lambda row: row.method == DISTILLED))
        for model, limited, pairs in sorted(groups)
    ]


def comparisons(rows: list[Row]) -> list[Comparison]:
    """One for each number of distilled pairs."""
    own = [row for row in rows if row.image_model is None]
    full = next((row for row in own if row.method == FULL), None)
    return [
        Comparison(
            pairs=row.pairs,
            distilled=row.metrics["mean"].mean,
            coreset=max(
                (other for other in own if other.pairs == row.pairs and other.method not in (DISTILLED, FULL)),
                key=lambda other: other.metrics["mean"].mean,
                default=None,
            ),
            full=full,
        )
        for row in sorted(own, key=lambda row: row.pairs)
        if row.method == DISTILLED
    ]


def metrics_of(rows: list[Row]) -> list[str]:
    """The columns of a table: the recalls, their mean, then the further metrics that any row has."""
    return list(dict.fromkeys([*METRICS, *(metric for row in rows for metric in row.metrics)]))


def cell(row: Row, metric: str) -> str:
    """`12.3 ±0.4`, or `12.3` for a single run; empty where the row lacks the metric."""
    if metric not in row.metrics:
        return ""
    stat = row.metrics[metric]
    return f"{stat.mean:.1f}" + (f" ±{stat.std:.1f}" if row.runs > 1 else "")


def summary(data: ReportData) -> dict[str, Any]:
    """The table as JSON values; only cross-architecture rows have `image_model`."""
    return {
        "rows": [
            {
                "method": row.method,
                "pairs": row.pairs,
                **({"image_model": row.image_model} if row.image_model else {}),
                "metrics": {metric: stat.model_dump() for metric, stat in row.metrics.items()},
            }
            for budget in budgets(data.rows)
            for row in budget.rows
        ]
    }


def render_table(data: ReportData) -> Table:
    """The table for a terminal: a section for each number of pairs, with its best values in bold."""
    table = Table(title=Text(f"{data.name}: recall", style="table.title"), caption=NOTE, box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("pairs", overflow="fold")
    table.add_column("method", no_wrap=True)
    metrics = metrics_of(data.rows)
    for metric in metrics:
        table.add_column(metric_name(metric), justify="right")
    for budget in budgets(data.rows):
        for label, cells in _lines(budget, metrics, lambda text: Text(text, style="bold")):
            table.add_row(Text(label), *cells)
        table.add_section()
    return table


def markdown_table(data: ReportData) -> str:
    """The same table in GitHub's Markdown."""
    metrics = metrics_of(data.rows)
    lines = [
        "| pairs | method | " + " | ".join(map(metric_name, metrics)) + " |",
        "|:---|:---|" + "---:|" * len(metrics),
    ]
    for budget in budgets(data.rows):
        for label, cells in _lines(budget, metrics, lambda text: f"**{text}**"):
            lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", NOTE, ""])


def _lines(budget: Budget, metrics: list[str], embolden: Callable[[str], Cell]) -> list[tuple[str, list[str | Cell]]]:
    """(pairs, [method, recalls...]) for each row; only the first row names the pairs."""
    name = f"{budget.pairs:,}" + (f" on {budget.image_model}" if budget.image_model else "")

    def cells(row: Row) -> Iterator[str | Cell]:
        yield display_name(row.method)
        for metric in metrics:
            text = cell(row, metric)
            yield embolden(text) if budget.is_best(row, metric) else text

    return [(name if position == 0 else "", list(cells(row))) for position, row in enumerate(budget.rows)]
