"""The figures of a study: the compared results, and their positions."""

import re
from xml.etree import ElementTree

import pytest

from tests.reporting.legends import looks_in_legends
from tests.reporting.study_results import RESULTS, row
from vldd_dist.reporting.data import MeasuredSplit, MissingRow, Row
from vldd_dist.reporting.figures.experiment_figures import recall_plot
from vldd_dist.reporting.figures.study_figures import COLOURS, study_plot, study_plots
from vldd_dist.reporting.tables.study_tables import Layout, study_table


def said(layout: Layout) -> dict[str, tuple[float, float]]:
    """The text of each point -> its position."""
    plot = study_plot(layout, RESULTS)
    assert plot is not None
    circles = [one for one in ElementTree.fromstring(plot.svg).iter() if one.get("class") == "value"]
    return {one[0].text or "": (float(one.get("cx", "")), float(one.get("cy", ""))) for one in circles}


def test_several_numbers_of_pairs_are_lines() -> None:
    found = said(Layout("T", ["nfnet", "vit"], ["full", "random", "distilled"]))
    assert set(found) == {
        "nfnet, random, pairs 10: 6 %",
        "nfnet, random, pairs 20: 9 %",
        "nfnet, distilled, pairs 10: 21 %",
        "nfnet, distilled, pairs 20: 32 %",
        "vit, distilled, pairs 10: 16 %",
        "nfnet, full data: 42 %",
        "vit, full data: 20 %",
    }
    high, low = found["nfnet, full data: 42 %"][1], found["vit, full data: 20 %"][1]
    assert (found["nfnet, distilled, pairs 20: 32 %"][1] - high) / (low - high) == pytest.approx(10 / 22, rel=0.02)


def test_the_lines_of_full_data_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Layout("T", ["nfnet", "vit"], ["full", "random", "distilled"])
    plot = study_plot(layout, RESULTS)
    assert plot is not None
    assert all(f">{variant}, full data</text>" in plot.svg for variant in layout.variants)
    assert plot.caption.endswith("Horizontal: full data.")
    looks = looks_in_legends(monkeypatch)
    study_plot(layout, RESULTS)
    assert len(set(looks)) == len(looks) == 5
    looks.clear()
    many = {str(number): RESULTS["nfnet"] for number in range(4)} | {"vit": RESULTS["vit"]}
    plot = study_plot(Layout("T", [*many], ["full", "distilled"]), many)
    assert plot is not None
    assert "full data</text>" not in plot.svg, "they would look alike"
    assert plot.caption.endswith("Horizontal: full data.")


def test_figures_of_tables_with_one_title_share_no_ids() -> None:
    plots = study_plots([Layout("T", ["nfnet"], [method, "full"]) for method in ("random", "distilled")], RESULTS)
    first, second = (re.findall(r' id="([^"]+)"', plot.svg) for plot in plots)
    assert first
    assert not set(first) & set(second)


def test_one_number_of_pairs_is_bars_in_the_order_of_the_table() -> None:
    found = said(Layout("T", ["nfnet", "vit"], ["full", "distilled"], pairs=[10], other_image_models=True))
    assert [name for name, _ in sorted(found.items(), key=lambda one: one[1][1])] == [
        "nfnet, full data: 42 %",
        "vit, full data: 20 %",
        "nfnet, distilled: 21 %",
        "vit, distilled: 16 %",
        "nfnet, distilled, on resnet: 8 %",
    ]


def test_numbers_of_pairs_of_one_budget_are_bars() -> None:
    results = {"vldd": [row("distilled", 100, (27.0,))], "ptm-st": [row("distilled", 99, (29.0,))]}
    heights = {}
    for budgets in ({}, {99: 100}):
        plot = study_plot(Layout("T", ["vldd", "ptm-st"], ["distilled"], budgets=budgets), results)
        assert plot is not None
        heights[len(budgets)] = "ptm-st: 29 %" in [text for _, _, text in plot.values]
    assert heights == {0: False, 1: True}


def without_error_bar(rows: list[Row]) -> int:
    """The number of rows without an error bar, which is the same in the figures of a study and of a report."""
    study = study_plot(Layout("T", ["only"], ["random", "distilled"]), {"only": rows})
    assert study is not None
    found = []
    for plot in (study, recall_plot(rows)):
        assert plot.caption.count("rows of one student have none") == 1
        # matplotlib writes an error bar that is not a number as a path without a line.
        paths = [one for one in ElementTree.fromstring(plot.svg).iter() if one.tag.endswith("}path")]
        found.append(sum(path.get("d") is None for path in paths))
    assert found[0] == found[1]
    return found[0]


def test_a_row_of_one_student_has_no_error_bar() -> None:
    """One of length zero would say that its students do not differ."""
    single = [row("random", 10, (5.0,)), row("distilled", 10, (9.0,))]
    several = [row("random", 10, (5.0,), (7.0,)), row("distilled", 10, (9.0, 9.0))]
    larger = [row("random", 20, (5.0,), (7.0,)), row("distilled", 20, (9.0,))]
    assert [without_error_bar(rows) for rows in (several, single)] == [0, 2]
    assert [without_error_bar([*rows, *larger]) for rows in (several, single)] == [1, 3]


def test_tables_of_other_figures_have_plots_of_their_own() -> None:
    """Also if their rounded figures are equal; tables that differ only in their metrics have one plot."""
    results = {"adam": [row("distilled", 10, (20.41,))], "sgd": [row("distilled", 10, (20.44,))]}
    layouts = [
        Layout("Adam", ["adam"], ["distilled"], metrics=["mean"]),
        Layout("Adam, R@1", ["adam"], ["distilled"], metrics=["tr1"]),
        Layout("SGD", ["sgd"], ["distilled"], metrics=["mean"]),
    ]
    assert [plot.title for plot in study_plots(layouts, results)] == ["Adam", "SGD"]


def test_lines_of_one_plot_look_different(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = looks_in_legends(monkeypatch)
    methods = [*COLOURS, "one", "more"]
    study_plot(Layout("T", ["a"], methods), {"a": [row(name, pairs, (1.0,)) for name in methods for pairs in (10, 20)]})
    assert len(set(looks)) == len(looks) == len(methods)


def test_the_caption_names_incomplete_rows_as_the_table_does() -> None:
    partial = row("random", 10, (5.0,), (7.0,)).model_copy(update={"planned": 10})
    results, absent = {"a": [partial]}, {"a": [MissingRow(method="distilled", pairs=10, planned=5)]}
    for pairs in (None, [10, 20]):
        layout = Layout("T", ["a"], ["random", "distilled"], pairs, metrics=["mean"])
        (plot,) = study_plots([layout], results, absent)
        said = "Incomplete: a, random, 10 pairs: 2 of 10 students; a, distilled, 10 pairs: 0 of 5 students."
        assert said in plot.caption
        assert said in study_table(layout, results, lambda key, metric: None, absent).notes


def test_recalls_on_different_test_splits_are_not_side_by_side() -> None:
    layout, small = Layout("T", ["nfnet", "vit"], ["distilled"]), MeasuredSplit(images=50, captions=250)
    large = small.model_copy(update={"images": 1000})
    for vit, drawn in ((small, 1), (large, 0)):
        assert len(study_plots([layout], RESULTS, test_splits={"nfnet": small, "vit": vit})) == drawn
    # The other variant is not in the table, or has no result.
    alone = Layout("T", ["nfnet"], ["distilled"])
    assert study_plots([alone], RESULTS, test_splits={"nfnet": small, "vit": large})
    assert study_plots([layout], RESULTS | {"vit": []}, test_splits={"nfnet": small, "vit": large})


def test_without_results_there_is_no_plot() -> None:
    assert study_plot(Layout("T", ["vit"], ["random"]), RESULTS) is None
