from tests.reporting.sample import report, row
from vldd_dist.recall_metrics import METRICS
from vldd_dist.reporting.renderers.markdown import markdown
from vldd_dist.reporting.tables import budgets, comparisons, recall_table, summary

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


def test_the_table_has_a_line_for_each_row():
    table = recall_table(report())
    assert [column.key for column in table.columns] == ["pairs", "method", *METRICS, "runs"]
    assert [section.title for section in table.sections] == ["", "", "", "students on nf_resnet50"]
    assert [line.accent for section in table.sections for line in section.rows] == [
        method == "distilled" for method, _, _ in ORDER
    ]


def test_in_markdown():
    lines = markdown(recall_table(report())).splitlines()
    assert lines[0] == "| pairs | method | TR@1 | TR@5 | TR@10 | IR@1 | IR@5 | IR@10 | mean |"
    assert lines[3].startswith("| 10 | random | 5.0 ±0.8 |")
    assert lines[4].startswith("|  | distilled | **10.0 ±0.8** |")
    assert lines[8] == "| *students on nf\\_resnet50* |" + "  |" * 8
    # A single run has no spread.
    assert lines[9].startswith("| 10 | distilled | 7.0 | 7.0 |")
