import numpy as np
import pytest

from tests.reporting.sample import report, row
from vldd_dist.recall_metrics import OTHER_COLUMNS, RECALL_METRICS
from vldd_dist.reporting.data import MeasuredSplit, ReportData
from vldd_dist.reporting.tables.recall_table import comparisons, recall_table, row_groups, spread_note, summary
from vldd_dist.reporting.tables.renderers.markdown import markdown
from vldd_dist.reporting.tables.set_sizes import COUNTED

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
        promised = {"method", "pairs", "metrics", "runs", "students", "planned", "averages"}
        assert set(entry) - {"image_model", "of_full_data"} == promised
        assert list(entry["metrics"]) == list(RECALL_METRICS)
        assert all(set(stat) == {"mean", "std_runs", "std_students"} for stat in entry["metrics"].values())
    assert "image_model" not in rows[0]
    assert rows[2]["metrics"]["mean"] == {"mean": 10.0, "std_runs": pytest.approx(np.std([9, 10, 11])), "std_students": None}
    assert [entry.get("of_full_data") for entry in rows] == [
        100,
        *(pytest.approx(100 * m / 55) for m in (5, 10, 9, 8, 16)),
        None,
    ]
    assert [(entry["runs"], entry["students"]) for entry in rows] == [*[(3, 3)] * 6, (1, 1)]


def test_the_columns_beside_the_metrics_are_those_whose_names_no_metric_may_have():
    assert [column.key for column in recall_table(report()).columns if column.key not in RECALL_METRICS] == list(OTHER_COLUMNS)


def test_the_best_row_of_each_group_is_marked():
    groups = row_groups(report().rows)
    assert [[row.method for row in group.rows if group.is_best(row, "tr1")] for group in groups] == [
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


def test_means_of_pairs_do_not_count_as_the_best_coreset():
    """Means are not marked as the best coreset, and the table says that they are means."""
    means = row("prototypes", 10, 60.0).model_copy(update={"averages": True})
    data = report()
    data = data.model_copy(update={"rows": [*data.rows, means]})
    assert comparisons(data.rows)[0].coreset.method == "random"
    assert "Prototypes: means of real pairs, made without distillation." in recall_table(data).notes
    assert not any("means of real pairs" in note for note in recall_table(report()).notes)


def bests(data: ReportData) -> list[int]:
    """The numbers of pairs among whose rows a value is marked."""
    rows = [row for section in recall_table(data).sections for row in section.rows]
    return [row.cells[0].value for row in rows if any(getattr(cell, "best", False) for cell in row.cells)]


def test_the_bytes_of_a_learned_similarity_are_stated_beside_real_pairs():
    data = report().model_copy(update={"similarity_sizes": {10: (1234, 1200), 30: (1230, 1200)}})
    said = "A distilled set has a learned similarity too, and so more bytes than real pairs: 2.8 % more at 10 pairs."
    marked = f"{said} Among sets whose bytes differ by more than 1 %, no best value is marked."
    assert recall_table(data).notes[1:3] == [marked, COUNTED]
    assert bests(data) == [20], "of the other number of pairs"
    slightly = data.model_copy(update={"similarity_sizes": {10: (1003, 1000), 20: (1010, 1000)}})
    assert recall_table(slightly).notes[1] == said.replace(
        "2.8 % more at 10 pairs", "0.3 % more at 10 pairs, 1 % more at 20 pairs"
    )
    assert bests(slightly) == [10, 20]
    several_times = data.model_copy(update={"similarity_sizes": {10: (3920, 1000)}})
    assert "290 % more at 10 pairs" in recall_table(several_times).notes[1]
    only_distilled = data.model_copy(update={"rows": [row("distilled", 10, 4.0)]})
    for other in (report(), only_distilled):
        assert not any("similarity" in note for note in recall_table(other).notes)


def test_the_table_has_a_line_for_each_row():
    table = recall_table(report())
    assert [column.key for column in table.columns] == ["pairs", "method", *RECALL_METRICS, "of_full_data", "runs", "students"]
    assert [section.title for section in table.sections] == ["", "", "", "students on nf_resnet50"]
    assert [line.accent for section in table.sections for line in section.rows] == [
        method == "distilled" for method, _, _ in ORDER
    ]


def test_the_recall_table_in_markdown():
    lines = markdown(recall_table(report())).splitlines()
    assert lines[0] == "| pairs | method | TR@1 | TR@5 | TR@10 | IR@1 | IR@5 | IR@10 | mean | of full data, % |"
    assert lines[3].startswith("| 10 | random | 5.0 ±0.8 |")
    assert lines[4].startswith("|  | distilled | **10.0 ±0.8** |")
    assert lines[4].endswith(" | **10.0 ±0.8** | 18.2 |")
    assert lines[8] == "| *students on nf\\_resnet50* |" + "  |" * 9
    # A single run has no spread.
    assert lines[9].startswith("| 10 | distilled | 7.0 | 7.0 |")
    assert lines[-3] == "Full data: the experts; in place of pairs, the row has the number of training images."
    assert lines[-1] == "Of full data, %: the mean divided by that of full data with the same towers."


def test_without_full_data_there_is_no_percentage_column():
    table = recall_table(report().model_copy(update={"rows": [row("distilled", 10, 4.0)]}))
    assert "of_full_data" not in [column.key for column in table.columns]
    assert len(table.notes) == 1


START = "Test recall in percent; ± is the population standard deviation over "


@pytest.mark.parametrize(
    ("rows", "spreads"),
    [
        ([row("full", 99, 1.0, runs=4)], "experts for full data"),
        (
            [row("full", 99, 1.0), row("k_center", 9, 1.0), row("distilled", 9, 1.0, runs=1, students=5)],
            "experts for full data; over selections for coresets; over the students of one distilled set for distilled pairs",
        ),
        (
            [row("distilled", 9, 1.0, runs=2, students=5)],
            "distillations, of the mean over each one's students, for distilled pairs",
        ),
        (
            [row("distilled", 9, 1.0, runs=2, students=2), row("distilled", 99, 1.0, runs=1, students=2)],
            "distillations, of the mean over each one's students, or the students of one distilled set for distilled pairs",
        ),
        ([row("full", 99, 1.0, runs=1), row("random", 9, 1.0)], "selections for coresets"),
    ],
)
def test_the_note_says_what_the_spread_of_which_rows_is(rows, spreads):
    assert spread_note(rows) == f"{START}{spreads}."


def test_the_note_of_single_students():
    assert spread_note([row("full", 99, 1.0, runs=1)]) == "Test recall in percent, of one student each."


def test_the_notes_name_the_size_of_the_test_split_and_its_steps_if_it_is_small():
    of_size = [
        recall_table(report().model_copy(update={"test_split": MeasuredSplit(images=images, captions=5 * images)})).notes
        for images in (6, 1000)
    ]
    assert [notes[0].split(";")[0] for notes in of_size] == [
        "Test recall in percent on 6 images with 30 captions",
        "Test recall in percent on 1,000 images with 5,000 captions",
    ]
    assert of_size[0][1].startswith("With 6 test images, a student's TR@K changes in steps of 16.7 percentage points, and any ")
    assert not any("steps" in note for note in of_size[1])


def test_the_shown_spread_is_that_over_runs_where_there_are_several():
    several, one = row("distilled", 10, 50.0, runs=2, students=2), row("distilled", 20, 50.0, runs=1, students=2)
    table = recall_table(report().model_copy(update={"rows": [several, one]}))
    shown = [section.rows[0].cells[2] for section in table.sections]
    assert [(cell.spread, cell.std_students) for cell in shown] == [(0.5, 2.0), (2.0, 2.0)]
