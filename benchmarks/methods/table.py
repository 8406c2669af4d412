"""The tables of the comparison of methods and the last line of JSON."""

import math

from rich.console import Console
from rich.table import Table

from benchmarks._measure import print_json
from benchmarks.methods.recalls import difference
from benchmarks.methods.rows import BILEVEL, KINDS, Row

# The budget of the figures in the line of JSON.
SUMMARY_BUDGET = 100

console = Console(width=140)


def show(rows: list[Row]) -> None:
    """Print the table and the line of JSON, whose figures are those of a budget of 100 pairs."""
    full = next(row.mean for row in rows if row.kind == "full")
    columns = (
        "method",
        "pairs",
        "mean",
        "± runs",
        "± students",
        "runs",
        "of full data, %",
        "outer steps",
        "x rates",
        "KiB",
        "CPU s",
        "experts s",
    )
    table = Table(*columns, title="Flickr8k, feature space: mean of six test recalls, percent")
    for row in sorted(rows, key=lambda row: (row.budget, KINDS.index(row.kind))):
        figures = (f"{value:.1f}" if value is not None else "" for value in (row.mean, row.deviation, row.students))
        sizes = (
            f"{value:g}" if value else ""
            for value in (
                row.outer_steps,
                row.rate,
                row.size and round(row.size / 1024),
                row.seconds and round(row.seconds),
                row.experts_seconds and round(row.experts_seconds),
            )
        )
        share = "" if math.isnan(row.full) else f"{100 * row.mean / row.full:.0f}"
        table.add_row(row.name, str(row.pairs or "all"), *figures, str(len(row.means)), share, *sizes)
    console.print(table)
    show_differences(rows)

    summary = {"full_mean": full}
    rows_of = {kind: [row for row in rows if row.kind == kind and row.budget == SUMMARY_BUDGET] for kind in KINDS}
    best = {kind: max(of_kind, key=lambda row: row.mean) for kind, of_kind in rows_of.items() if of_kind}
    for kind in ("ours", "published", "coreset"):
        if kind in best:
            summary["ours_mean_100" if kind == "ours" else f"best_{kind}_mean_100"] = best[kind].mean
    if "ours" in best:
        summary["ours_share_of_full"] = best["ours"].mean / full
        if "published" in best:
            summary["ours_over_published"] = best["ours"].mean / best["published"].mean
            points, error = difference(best["ours"].images, best["published"].images)
            summary |= {"ours_minus_published_100": points, "ours_minus_published_100_error": error}
    print_json(summary)


def show_differences(rows: list[Row]) -> None:
    """Print how far bilevel is above full data and above the other sets of equal bytes."""
    table = Table("bytes of, pairs", "method", "bilevel minus it", "± over images", title="bilevel against the others, points")
    for ours in (row for row in rows if row.name == BILEVEL):
        for row in rows:
            if row.budget in (0, ours.budget) and row.name != BILEVEL:
                points, error = difference(ours.images, row.images)
                table.add_row(str(ours.budget), row.name, f"{points:.1f}", f"{error:.1f}")
    if table.row_count:
        console.print(table)
