import io

from rich.console import Console

from tests.reporting.sample import report, row
from vldd_dist.recall_metrics import METRICS
from vldd_dist.reporting.tables import budgets, comparisons, markdown_table, render_table, summary

ORDER = [
    ("full", 2000, None),
    ("random", 10, None),
    ("distilled", 10, None),
    ("herding", 20, None),
    ("random", 20, None),
    ("distilled", 20, None),
    ("distilled", 10, "nf_resnet50"),
]


def test_summary_has_exactly_the_promised_keys():
    rows = summary(report())["rows"]
    assert [(entry["method"], entry["pairs"], entry.get("image_model")) for entry in rows] == ORDER
    for entry in rows:
        assert set(entry) - {"image_model"} == {"method", "pairs", "metrics"}
        assert list(entry["metrics"]) == list(METRICS)
        assert all(set(stat) == {"mean", "std"} for stat in entry["metrics"].values())
    assert "image_model" not in rows[0]
    assert rows[2]["metrics"]["mean"]["mean"] == 10.0


def test_best_is_marked_among_rows_that_compete():
    own = budgets(report().rows)
    assert [[row.method for row in budget.rows if budget.is_best(row, "tr1")] for budget in own] == [
        [],
        ["distilled"],
        ["distilled"],
        [],
    ]


def test_comparisons_name_the_best_coreset_of_the_size():
    small, large = comparisons(report().rows)
    assert (small.pairs, small.distilled, small.coreset.method) == (10, 10.0, "random")
    assert (large.coreset.method, large.full.pairs) == ("herding", 2000)
    assert comparisons([row("distilled", 10, 4.0)])[0].coreset is None


def test_terminal_table_shows_every_row_at_any_width():
    for width in (80, 160):
        console = Console(width=width, record=True, file=io.StringIO())
        console.print(render_table(report()))
        text = console.export_text()
        assert all(name in text for name in ("full data", "random", "herding", "distilled", "TR@10", "55.0", "±0.8"))
        assert "…" not in text


def test_a_single_run_shows_no_spread():
    line = markdown_table(report()).splitlines()[-3]
    assert line.startswith("| 10 on nf_resnet50 | distilled | 7.0 | 7.0 |")


def test_markdown_marks_the_best():
    table = markdown_table(report())
    assert table.count("\n| ") == len(ORDER)
    assert "| distilled | **10.0 ±0.8** |" in table
    assert "| 10 | random | 5.0 ±0.8 |" in table
