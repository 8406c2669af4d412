"""Tables of applications."""

from vldd_dist.applications.one_shot_federated import OneShotFederated
from vldd_dist.applications.result import Result
from vldd_dist.applications.tables import application_table
from vldd_dist.config.base import choose
from vldd_dist.plugins import APPLICATIONS, INITIALISATIONS

RESULTS = [Result(method="distilled", figures={"recall": [1.0], "kib": [2.0]})]


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
