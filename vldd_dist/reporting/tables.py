"""The recall table of a report, as a table to draw and as JSON."""

from dataclasses import dataclass
from typing import Any

from vldd_dist.recall_metrics import METRICS
from vldd_dist.reporting.data import DISTILLED, FULL, ReportData, Row, display_name, metric_name
from vldd_dist.reporting.table import Cell, Column, Number, Section, Statistic, Table, Text
from vldd_dist.reporting.table import Row as Line

NOTE = "Test recall in percent; ± is the population standard deviation over runs."


@dataclass(frozen=True)
class Budget:
    """Rows that are compared: students with the same image tower, trained on the same number of pairs."""

    pairs: int
    image_model: str | None
    rows: list[Row]

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


def summary(data: ReportData) -> dict[str, Any]:
    """The rows as JSON values; only cross-architecture rows have `image_model`."""
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


def recall_table(data: ReportData) -> Table:
    """A section for each number of pairs, with its best values marked; sections of other image towers are titled so."""
    metrics = metrics_of(data.rows)
    return Table(
        title=f"{data.name}: recall",
        columns=[
            Column(key="pairs", head="pairs", once=True),
            Column(key="method", head="method"),
            *(Column(key=metric, head=metric_name(metric), figures=True) for metric in metrics),
            Column(key="runs", head="runs", figures=True, detail=True),
        ],
        sections=[
            Section(
                title=f"students on {budget.image_model}" if budget.image_model else "",
                rows=[_line(budget, row, metrics) for row in budget.rows],
            )
            for budget in budgets(data.rows)
        ],
        notes=[NOTE],
    )


def _line(budget: Budget, row: Row, metrics: list[str]) -> Line:
    cells: list[Cell] = [Number(value=row.pairs), Text(text=display_name(row.method))]
    for metric in metrics:
        if metric in row.metrics:
            stat = row.metrics[metric]
            spread = stat.std if row.runs > 1 else None
            cells.append(Statistic(mean=stat.mean, std_runs=spread, best=budget.is_best(row, metric)))
        else:
            cells.append(Text())
    return Line(cells=[*cells, Number(value=row.runs)], accent=row.method == DISTILLED)
