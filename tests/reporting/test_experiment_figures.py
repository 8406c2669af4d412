import re
from xml.etree import ElementTree

import numpy as np
import pytest

from tests.reporting.legends import looks_in_legends
from tests.reporting.sample import report, row
from vldd_dist.config.sections.coresets import CoresetSettings
from vldd_dist.method_names import FULL
from vldd_dist.plugins import CORESETS
from vldd_dist.reporting.data import DistillationCurve, MissingRow
from vldd_dist.reporting.figures.drawing import INK, as_file
from vldd_dist.reporting.figures.experiment_figures import loss_plot, plots, recall_plot, validation_plot
from vldd_dist.reporting.tables.recall_table import recall_table


def test_there_is_a_plot_for_every_curve():
    assert [plot.title for plot in plots(report())] == [
        "Recall against pairs",
        "Experts",
        *(
            title.format(pairs)
            for pairs in (10, 20)
            for title in (
                "Recall during distillation, {} pairs",
                "Outer loss, {} pairs, seed 0",
                "Learned besides the pairs, {} pairs, seed 0",
            )
        ),
    ]


def test_figures_are_the_same_bytes_each_time():
    assert [plot.svg for plot in plots(report())] == [plot.svg for plot in plots(report())]


def test_plots_are_inline_svg_in_the_text_colour_of_the_page():
    for plot in plots(report()):
        root = ElementTree.fromstring(plot.svg)
        assert root.tag.endswith("svg")
        assert root.get("viewBox")
        assert root.get("width") is None
        assert INK not in plot.svg
        assert "currentColor" in plot.svg


def test_baselines_are_named_in_the_legend():
    recall = next(plot for plot in plots(report()) if plot.title == "Recall during distillation, 20 pairs")
    assert all(f">{name}</text>" in recall.svg for name in ("full data", "random", "herding", "seed 0"))


def test_recall_during_distillation_is_compared_with_validation_recalls() -> None:
    """Not with those of the test split, which are higher or lower for reasons of their own."""
    test_recalls = [row("random", 20, 77.0), row("full", 2000, 88.0), row("distilled", 20, 99.0)]
    data = report().model_copy(update={"rows": test_recalls})
    plot = next(plot for plot in plots(data) if plot.title == "Recall during distillation, 20 pairs")
    assert plot.summary == "Best validation recall 10.0 %; full data 40.0 %, random 6.7 %, herding 6.7 %."


def test_all_coresets_of_a_plot_look_different(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = looks_in_legends(monkeypatch)
    methods = [*CORESETS, "full", "distilled"]
    recall_plot([row(method, pairs, 5.0) for method in methods for pairs in (10, 20)])
    assert len(set(looks)) == len(methods)
    looks.clear()
    validation_plot([report().distillations[0]], dict.fromkeys([*CORESETS, "full"], 5.0))
    assert len(set(looks)) == len(looks) == len(methods)


def test_the_coresets_of_an_experiment_by_default_have_different_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = looks_in_legends(monkeypatch)
    methods = [method.name for method in CoresetSettings().methods]
    recall_plot([row(method, pairs, 5.0) for method in methods for pairs in (10, 20)])
    assert len({colour for colour, _ in looks}) == len(methods) + 1, "and distilled pairs have one of their own"


def test_values_on_hover_are_at_the_positions_of_their_points():
    recall = plots(report())[0]
    circles = [one for one in ElementTree.fromstring(recall.svg).iter() if one.get("class") == "value"]
    said = {one[0].text: (float(one.get("cx", "")), float(one.get("cy", ""))) for one in circles}
    low, high, full = (
        said[name] for name in ("distilled, pairs 10: 10 %", "distilled, pairs 20: 16 %", "full data, 2,000 images: 55 %")
    )
    assert low[0] < high[0] == full[0]
    # The axis of recall is linear, with larger values above.
    assert (low[1] - high[1]) / 6 == pytest.approx((high[1] - full[1]) / 39, rel=0.02)


def test_recall_of_one_number_of_pairs_is_a_bar_for_each_method() -> None:
    levels = {"distilled": 40.0, "random": 20.0, "full": 80.0, "k_center": 30.0}
    rows = [row(method, 2000 if method == "full" else 20, level) for method, level in levels.items()]
    plot = recall_plot([*rows, row("distilled", 20, 25.0, image_model="nf_resnet50")])
    assert plot.title == "Recall of 20 pairs"
    circles = [one for one in ElementTree.fromstring(plot.svg).iter() if one.get("class") == "value"]
    assert [one[0].text for one in sorted(circles, key=lambda one: float(one.get("cy", "")))] == [
        "full data (2,000): 80 %",
        "random: 20 %",
        "k-center: 30 %",
        "distilled: 40 %",
    ]
    full, random, *_ = (float(one.get("cx", "")) for one in circles)
    assert full > random
    # Full data are no students of this protocol.
    assert plot.caption.endswith(" Full data: the experts, trained on all images.")
    lines = [*rows, row("random", 10, 10.0)]
    assert recall_plot(lines).caption.endswith(" Dashed: full data (the experts, trained on all images).")
    assert "ull data" not in recall_plot([one for one in lines if one.method != "full"]).caption


@pytest.mark.parametrize("sizes", [(20,), (10, 20)])
def test_the_caption_of_the_recall_names_incomplete_rows_as_the_table_does(sizes: tuple[int, ...]) -> None:
    """But not those with other image towers, which are not in the plot."""
    partial, *complete = [row(method, size, 5.0) for method in ("random", "distilled") for size in sizes]
    partial, other = (
        incomplete.model_copy(update={"planned": 5}) for incomplete in (partial, row("distilled", 20, 5.0, image_model="vit"))
    )
    absent = [MissingRow(method=FULL, pairs=None, planned=2), MissingRow(method=FULL, pairs=20, image_model="vit", planned=1)]
    data = report().model_copy(
        update={"rows": [partial, *complete, other], "missing": absent, "experts": [], "distillations": []}
    )
    said = f"Incomplete: random, {sizes[0]} pairs: 3 of 5 students; full data: 0 of 2 students."
    (plot,) = plots(data)
    assert plot.caption.endswith(f" {said}")
    (note,) = [note for note in recall_table(data).notes if note.startswith("Incomplete")]
    assert set(said.removesuffix(".").split("; ")) < set(note.removesuffix(".").split("; "))


def test_a_plot_can_be_saved_as_a_standalone_svg_file():
    root = ElementTree.fromstring(as_file(plots(report())[0]))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert {one.get("fill") for one in root.iter() if one.get("class") == "value"} == {"transparent"}
    # Without a size, a page would stretch it to its whole width.
    assert root.get("width") == "388.8pt"
    assert "currentColor" not in ElementTree.tostring(root, encoding="unicode")


def test_the_thick_line_of_the_loss_is_the_mean_of_the_last_values():
    loss = list(np.random.default_rng(0).random(60))
    plot = loss_plot(DistillationCurve(pairs=10, seed=0, loss=loss, terms={}, validation=[], learned={}))
    assert "the last 3 steps" in plot.title + plot.caption
    means = {int(step): mean for step, mean, _ in plot.values}
    assert {1, 60} <= set(means)
    np.testing.assert_allclose(list(means.values()), [np.mean(loss[max(0, step - 3) : step]) for step in means])


def test_axes_beside_each_other_begin_and_end_at_the_same_heights() -> None:
    """With a legend below them, or numbers of another width beside them."""
    # The second closed shape of a figure is the ground of its axes.
    grounds = [re.findall(r'd="M ([^"]*?)z\s*"', plot.svg)[1] for plot in plots(report())]
    heights = {tuple(sorted({float(point.split()[-1]) for point in ground.strip().split("\nL")})) for ground in grounds}
    assert len(grounds) > 5
    assert len(heights) == 1


def test_steps_are_whole_numbers_and_a_term_that_is_the_whole_loss_has_no_line_of_its_own() -> None:
    curve = DistillationCurve(pairs=10, seed=0, loss=[2.0, 1.0], terms={"real_pairs": [2.0, 1.0]}, validation=[], learned={})
    svg = loss_plot(curve).svg
    assert ">total</text>" in svg
    assert "real_pairs" not in svg
    assert ">1.5</text>" not in svg[: svg.index("outer step")]
    terms = {"image": [1.0, 0.5], "text": [1.0, 0.5]}
    assert ">image</text>" in loss_plot(curve.model_copy(update={"terms": terms})).svg
