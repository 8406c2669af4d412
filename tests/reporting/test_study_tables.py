"""The tables of a study: the position of each figure."""

from dataclasses import replace

from tests.reporting.study_results import RESULTS, row
from vldd_dist.reporting.data import MeasuredSplit, MissingRow
from vldd_dist.reporting.tables.published import published_table
from vldd_dist.reporting.tables.recall_table import NAMED_ROWS, incomplete
from vldd_dist.reporting.tables.renderers.markdown import markdown
from vldd_dist.reporting.tables.set_sizes import COUNTED
from vldd_dist.reporting.tables.study_tables import Layout, RowKey, results_in_table, study_table
from vldd_dist.reporting.tables.table import Published, Statistic, Table


def test_rows_with_fewer_students_than_planned_are_named() -> None:
    partial = row("random", 10, (5.0,), (7.0,)).model_copy(update={"planned": 5})
    results = RESULTS | {"vit": [*RESULTS["vit"], partial]}
    table = study_table(Layout("T", ["nfnet", "vit"], ["random"], metrics=["tr1"]), results, nothing)
    assert "Incomplete: vit, random, 10 pairs: 2 of 5 students." in table.notes


def test_rows_of_the_table_without_any_student_are_named() -> None:
    absent = [
        MissingRow(method="full", pairs=None, planned=2),
        MissingRow(method="random", pairs=10, planned=5),
        # These have no place in the table.
        MissingRow(method="random", pairs=20, planned=5),
        MissingRow(method="herding", pairs=10, planned=5),
        MissingRow(method="random", pairs=10, image_model="resnet", planned=5),
    ]
    layout = Layout("T", ["nfnet", "vit"], ["full", "random"], pairs=[10], metrics=["tr1"])
    table = study_table(layout, RESULTS | {"vit": []}, nothing, {"vit": absent})
    assert "Incomplete: vit, full data: 0 of 2 students; vit, random, 10 pairs: 0 of 5 students." in table.notes


def test_the_notes_name_the_size_of_the_test_split() -> None:
    layout, small = Layout("T", ["nfnet", "vit"], ["random"], metrics=["tr1"]), MeasuredSplit(images=50, captions=250)
    same = study_table(layout, RESULTS, nothing, test_splits={"nfnet": small, "vit": small}).notes
    assert same[0].startswith("Test recall in percent on 50 images with 250 captions; ±")
    assert same[1].startswith("With 50 test images")
    large = MeasuredSplit(images=1000, captions=5000)
    different = study_table(layout, RESULTS, nothing, test_splits={"nfnet": small, "vit": large}).notes
    assert different[1] == (
        "Recalls on different test splits cannot be compared. Measured: nfnet on 50 images with 250 captions; "
        "vit on 1,000 images with 5,000 captions."
    )


def test_the_notes_name_coresets_whose_selections_are_repeated() -> None:
    repeats = [row("herding", pairs, (5.0,), (5.0,), (7.0,)).model_copy(update={"selections": 2}) for pairs in (20, 1000)]
    results = {"a": [*repeats, row("random", 20, (5.0,), (7.0,))], "b": repeats}
    table = study_table(Layout("T", ["a", "b"], ["random", "herding"], metrics=["tr1"]), results, nothing)
    assert [note for note in table.notes if "selections:" in note] == [
        "± counts selections of the same images one by one. Different selections: herding 2 of 3 (20, 1,000 pairs)."
    ]


def test_no_value_is_the_best_of_different_test_splits() -> None:
    layout = Layout("T", ["nfnet", "vit"], ["random", "distilled"], metrics=["tr1"])
    small, large = MeasuredSplit(images=50, captions=250), MeasuredSplit(images=1000, captions=5000)
    other, found = small.model_copy(update={"content": "other images"}), []
    for vit in (small, large, other):
        table = study_table(layout, RESULTS, nothing, test_splits={"nfnet": small, "vit": vit})
        found.append([line[-2] for line in lines(table) if "**" in line[-2]])
    # The rows with 20 pairs are all of one variant.
    assert found == [["**21.0 ±1.0**", "**32.0 ±0.0**"], ["**32.0 ±0.0**"], ["**32.0 ±0.0**"]]


def test_variants_named_like_methods_keep_their_order() -> None:
    full = row("full", 800, (30.0,))
    results = {name: [full, row("random", 10, (8.0,)), row("distilled", 10, (20.0,))] for name in ("random", "noise")}
    layout = Layout("T", ["random", "noise"], ["full", "random", "distilled"], metrics=["mean"])
    assert [(key.variant, key.method) for key, _ in results_in_table(layout, results)] == [
        ("", "full"),
        ("random", "random"),
        ("random", "distilled"),
        ("noise", "random"),
        ("noise", "distilled"),
    ]


def test_of_many_incomplete_rows_the_first_are_named() -> None:
    absent = [MissingRow(method="random", pairs=pairs, planned=5) for pairs in range(1, 41)]
    (note,) = incomplete(("", row) for row in absent)
    assert note.count("0 of 5") == NAMED_ROWS
    assert note.endswith("; and 20 more rows.")


def test_rows_of_one_budget_are_compared() -> None:
    """A learned similarity takes the bytes of a pair, so that 99 pairs are compared with the 100 of a method without one."""
    results = {
        "vldd": [row("full", 800, (40.0,)), row("random", 100, (8.0,)), row("distilled", 100, (27.0,))],
        "ptm-st": [row("full", 800, (40.0,)), row("distilled", 99, (29.0,))],
    }
    layout = Layout("T", ["vldd", "ptm-st"], ["full", "random", "distilled"], budgets={99: 100, 199: 200}, metrics=["mean"])
    table = study_table(replace(layout, sizes={99: {2000: 1999}, 199: {4000: 3999}}), results, nothing)
    assert [len(section.rows) for section in table.sections] == [1, 3]
    assert lines(table)[3:] == [
        ["100", "vldd", "random", "8.0", "20.0"],
        ["", "", "distilled", "27.0", "67.5"],
        ["99", "ptm-st", "distilled", "**29.0**", "72.5"],
    ]
    start = "Compared, counting what a loss learns of the pairs: 99 pairs with 100"
    assert table.notes[1:3] == [f"{start}: at most 1,999 bytes with 2,000.", COUNTED]
    without = study_table(layout, results, nothing).notes
    assert f"{start}." in without, "where the sizes are not known"
    assert COUNTED not in without
    columns = study_table(replace(layout, across="variant", methods=["distilled"]), results, nothing)
    assert lines(columns)[2:] == [["100", "27.0", ""], ["99", "", "**29.0**"]]


def test_a_learned_similarity_without_a_budget_is_stated_and_a_larger_set_is_not_the_best() -> None:
    results = {
        "plain": [row("random", 10, (6.0,)), row("distilled", 10, (7.0,)), row("distilled", 9, (1.0,))],
        "lors": [row("distilled", 10, (9.0,)), row("distilled", 9, (8.0,))],
    }
    layout = Layout("T", ["plain", "lors"], ["random", "distilled"], metrics=["mean"])
    said = "A distilled set has a learned similarity too, and so more bytes than real pairs:"
    for size, further in ((1010, ""), (1300, " Among sets whose bytes differ by more than 1 %, no best value is marked.")):
        sizes = {"lors": {9: (905, 900), 10: (size, 1000)}}
        table = study_table(replace(layout, similarity_sizes=sizes), results, nothing)
        each = f"0.56 % more for lors at 9 pairs, {size // 10 - 100} % more for lors at 10 pairs."
        assert table.notes[1:] == [f"{said} {each}{further}", COUNTED]
        assert [line[-1] for line in lines(table) if "**" in line[-1]] == ["**8.0**", *(["**9.0**"] if size == 1010 else [])]
    # One with a similarity each has equally many bytes.
    both = replace(layout, methods=["distilled"], similarity_sizes={name: {10: (1300, 1000)} for name in results})
    assert "**9.0**" in markdown(study_table(both, results, nothing))
    budgeted = replace(layout, budgets={9: 10}, similarity_sizes={"lors": {9: (990, 900)}})
    assert said not in " ".join(study_table(budgeted, results, nothing).notes), "its bytes are those of the budget"


def nothing(key: RowKey, metric: str) -> Published | None:
    return None


def lines(table: Table) -> list[list[str]]:
    return [
        [cell.strip() for cell in line.strip("|").split("|")] for line in markdown(table).splitlines() if line.startswith("|")
    ]


def test_methods_are_columns_as_in_the_paper() -> None:
    layout = Layout("T", ["nfnet"], ["random", "distilled"], across="method", metrics=["tr1", "ir1"])
    assert lines(study_table(layout, RESULTS, nothing)) == [
        ["pairs", "TR@1 random", "TR@1 distilled", "IR@1 random", "IR@1 distilled"],
        [":---", "---:", "---:", "---:", "---:"],
        ["10", "6.0 ±1.0", "**21.0 ±1.0**", "6.0 ±1.0", "**21.0 ±1.0**"],
        ["20", "9.0 ±0.0", "**32.0 ±0.0**", "9.0 ±0.0", "**32.0 ±0.0**"],
    ]


def test_variants_are_columns() -> None:
    layout = Layout("T", ["vit", "nfnet"], ["distilled"], across="variant", metrics=["mean"])
    assert lines(study_table(layout, RESULTS, nothing)) == [
        ["pairs", "mean vit", "mean nfnet"],
        [":---", "---:", "---:"],
        ["10", "16.0 ±1.0", "**21.0 ±1.0**"],
        # Cells without a measurement are empty.
        ["20", "", "32.0 ±0.0"],
    ]


def test_rows_compare_variants_and_methods_of_one_size_with_their_share_of_full_data() -> None:
    layout = Layout("T", ["nfnet", "vit"], ["full", "random", "distilled"], pairs=[10], metrics=["mean"])
    assert lines(study_table(layout, RESULTS, nothing)) == [
        ["pairs", "variant", "method", "mean", "of full data, %"],
        [":---", ":---", ":---", "---:", "---:"],
        ["800", "nfnet", "full data", "**42.0 ±2.0**", ""],
        ["", "vit", "full data", "20.0", ""],
        ["10", "nfnet", "random", "6.0 ±1.0", "14.3"],
        ["", "", "distilled", "**21.0 ±1.0**", "50.0"],
        ["", "vit", "distilled", "16.0 ±1.0", "80.0"],
    ]


def test_other_image_towers_are_rows_below_the_own_tower() -> None:
    """The best of students with one tower is marked, as in the table of an experiment, and not that of all towers."""
    layout = Layout("T", ["nfnet"], ["random", "distilled"], pairs=[10], other_image_models=True, metrics=["mean"])
    table = study_table(layout, RESULTS, nothing)
    assert [line[:4] for line in lines(table)[2:]] == [
        ["10", "the same", "random", "6.0 ±1.0"],
        ["", "the same", "distilled", "**21.0 ±1.0**"],
        ["10", "resnet", "distilled", "8.0 ±0.0"],
    ]


def test_a_published_figure_has_a_column_beside_ours_and_its_source_below() -> None:
    def known(key: RowKey, metric: str) -> Published | None:
        is_it = (key.method, key.pairs, metric) == ("distilled", 10, "tr1")
        return Published(mean=9.9, std=0.3, source="Wu et al., table 2") if is_it else None

    layout = Layout("T", ["nfnet"], ["random", "distilled"], pairs=[10, 20], across="method", metrics=["tr1", "ir1"])
    table = study_table(layout, RESULTS, known)
    heads, _, first, second = lines(table)
    assert heads[:4] == ["pairs", "TR@1 random", "TR@1 distilled", "TR@1 distilled, published"]
    assert (first[3], second[3]) == ("9.9 ±0.3 \\[1\\]", "")
    assert table.all_notes()[-1] == "[1] As published: Wu et al., table 2."
    rows = Layout("T", ["nfnet"], ["distilled"], metrics=["tr1", "ir1"])
    assert lines(study_table(rows, RESULTS, known))[0] == ["pairs", "TR@1 ours", "TR@1 published", "IR@1", "of full data, %"]


def test_how_published_figures_were_measured_is_said_below_them() -> None:
    def known(key: RowKey, metric: str) -> Published | None:
        return published_table("lors-flickr30k").cell("nfnet-bert", key.method, 100, metric)

    table = study_table(Layout("T", ["nfnet"], ["distilled"], metrics=["mean"]), RESULTS, known)
    (note,) = [note for note in table.all_notes() if note.startswith("[1] As published: ")]
    for said in published_table("lors-flickr30k").notes:
        assert said in note
    assert "best on the test split" in note
    assert table.all_notes() == Table.model_validate(table.model_dump(mode="json")).all_notes(), "also if it was stored"


def test_a_table_of_nothing_measured_yet_is_empty() -> None:
    table = study_table(Layout("T", ["nfnet"], ["distilled"], metrics=["mean"]), {"nfnet": []}, nothing)
    assert not table.sections


def test_both_spreads_are_kept() -> None:
    table = study_table(Layout("T", ["nfnet"], ["distilled"], pairs=[20], metrics=["mean"]), RESULTS, nothing)
    (cell,) = [cell for cell in table.sections[0].rows[0].cells if isinstance(cell, Statistic)]
    assert (cell.mean, cell.std_runs, cell.std_students) == (32.0, 0.0, 1.5)


def test_full_data_shared_by_all_variants_is_one_row() -> None:
    shared = {"nfnet": RESULTS["nfnet"], "texts": [RESULTS["nfnet"][0], row("distilled", 10, (12.0,))]}
    layout = Layout("T", ["texts", "nfnet"], ["full", "distilled"], pairs=[10], metrics=["mean"])
    assert lines(study_table(layout, shared, nothing))[2:] == [
        ["800", "", "full data", "42.0 ±2.0", ""],
        ["10", "texts", "distilled", "12.0", "28.6"],
        ["", "nfnet", "distilled", "**21.0 ±1.0**", "50.0"],
    ]
