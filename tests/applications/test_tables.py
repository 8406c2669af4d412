"""Tables of applications."""

from vldd_dist.applications.architecture_search import ArchitectureSearch
from vldd_dist.applications.one_shot_federated import OneShotFederated
from vldd_dist.applications.result import Result
from vldd_dist.applications.tables import SPREAD, SPREAD_OF_SETS, application_table
from vldd_dist.config.base import choose
from vldd_dist.plugins import APPLICATIONS, INITIALISATIONS
from vldd_dist.reporting.tables.table import Statistic, Table

RESULTS = [Result(method="distilled", figures={"recall": [1.0], "kib": [2.0]})]


def figures_of(table: Table) -> dict[str, Statistic]:
    """Method -> its only figure."""
    rows = [row for section in table.sections for row in section.rows]
    return {row.cells[0].text: next(cell for cell in row.cells if isinstance(cell, Statistic)) for row in rows}


def of_unit(distilled: float, *baseline: float) -> list[Result]:
    """The results of an application for one distilled set."""
    return [
        Result(method="random", figures={"tau": list(baseline)}, of_set=False),
        Result(method="distilled", figures={"tau": [distilled]}),
    ]


def test_what_does_not_depend_on_the_distilled_set_has_no_spread_over_sets() -> None:
    """Each unit measures it again, with the same seeds."""
    units = [*of_unit(0.5, 0.25), *of_unit(0.7, 0.25), *of_unit(0.6, 0.25)]
    table = application_table(ArchitectureSearch(), "scenes", units)
    found = figures_of(table)
    assert {name: one.std_students is not None for name, one in found.items()} == {"random": False, "distilled": True}
    assert table.notes[-1] == SPREAD_OF_SETS
    several = application_table(ArchitectureSearch(), "scenes", of_unit(0.5, 0.25, 0.75))
    assert (figures_of(several)["random"].std_students, several.notes[-1]) == (0.25, SPREAD)
    assert "±" not in " ".join(application_table(ArchitectureSearch(), "scenes", of_unit(0.5, 0.25)).notes)


def test_sets_with_a_learned_similarity_are_the_best_only_if_they_are_hardly_larger() -> None:
    for size, said in ((1010, "1 % more at 20 pairs."), (1011, "1.1 % more at 20 pairs. So no best value is marked.")):
        table = application_table(ArchitectureSearch(), "scenes", of_unit(0.5, 0.25), {20: (size, 1000)})
        note = f"A distilled set has a learned similarity too, and so more bytes than real pairs: {said}"
        assert note in table.notes
        assert figures_of(table)["distilled"].best == (size == 1010)


def title_of(application: OneShotFederated) -> str:
    return application_table(application, "scenes", RESULTS).title


def test_tables_of_one_application_with_other_settings_have_other_titles() -> None:
    """Defaults are not named, also if the description states them, as the output of `vldd config` does."""
    usual = OneShotFederated()
    assert title_of(usual) == "scenes: one-shot federated learning"
    assert title_of(OneShotFederated.model_validate(usual.model_dump(mode="json"))) == title_of(usual)
    assert title_of(OneShotFederated(clients=5, baselines=["random"])) == (
        "scenes: one-shot federated learning clients=5 baselines=[random]"
    )


def test_labels_name_no_default_that_is_made_by_a_function() -> None:
    assert choose(INITIALISATIONS, "by_modality").label == "by_modality"
    assert APPLICATIONS.load("one_shot_federated")(clusters=3).label == "one_shot_federated clusters=3"


def test_labels_name_the_settings_that_differ_in_a_nested_section() -> None:
    """And not the whole section, as it stands in applications-scenes."""
    changed = {"name": "continual_learning", "tasks": 4, "distill": {"outer_steps": 40, "validate_every": 20}}
    assert choose(APPLICATIONS, changed).label == (
        "continual_learning tasks=4 distill.outer_steps=40 distill.validate_every=20"
    )
