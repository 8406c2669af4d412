"""Presets by name."""

from pathlib import Path
from typing import Any

import pytest

from tests.studies import load_study
from vldd_dist.config.loading.descriptions import STUDY_KEYS
from vldd_dist.config.loading.load import description_path, load_experiment, read_tree
from vldd_dist.config.loading.presets import FOLDERS, preset_names
from vldd_dist.errors import ConfigError

ROOT = Path(__file__).parents[2]


def test_a_preset_is_found_by_its_name_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_path = load_experiment(ROOT / "jobs/presets/scenes.yaml")
    monkeypatch.chdir(tmp_path)
    assert load_experiment("scenes") == by_path
    assert "flickr8k-cpu" in preset_names()
    (tmp_path / "scenes").write_text("name: own\n")
    assert load_experiment("scenes").name == "own", "a user's own file takes precedence"
    with pytest.raises(ConfigError, match=r"scene: no such file, and no preset of this name: .*scenes"):
        load_experiment("scene")
    for name in ("../config/presets", "/etc/passwd", ""):
        with pytest.raises(ConfigError):
            load_experiment(name)


STUDIES = [name for name in preset_names() if STUDY_KEYS & read_tree(description_path(name)).keys()]


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_has_a_table_with_each_coreset_and_no_row_twice(name: str) -> None:
    """Variants with the same description of the distillation share its sets, which must then not be rows of both."""
    study = load_study(name)
    computed = {method.label for experiment in study.experiments.values() for method in experiment.coresets.methods}
    shown = {method for table in study.study.table_settings().values() for method in table.methods}
    assert computed <= shown
    for table in study.study.table_settings().values():
        of_sets = [
            study.experiments[variant].model_dump_json(exclude={"name", "coresets"})
            for variant in table.variants or study.experiments
        ]
        assert len(of_sets) == len(set(of_sets)), table.title


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_repeats_no_setting_of_the_data_of_its_base(name: str) -> None:
    """A reader would look for a difference."""
    tree = read_tree(description_path(name))
    if isinstance(tree["base"], str):
        base = load_experiment(tree["base"]).model_dump(mode="json")
        repeated = [key for key, value in tree.get("set", {}).items() if key.startswith("data.") and _at(base, key) == value]
        assert repeated == []


def _at(tree: Any, key: str) -> Any:
    for part in key.split("."):
        tree = tree.get(part)
    return tree


@pytest.mark.parametrize("name", [name for name in preset_names() if name not in STUDIES])
def test_each_experiment_can_be_distilled_by_bilevel_with_one_key(name: str) -> None:
    """As docs/methods.md says."""
    assert load_experiment(name, ["distill.objective={name: bilevel}"]).distill.objective.name == "bilevel"


def test_both_folders_hold_the_same_presets() -> None:
    assert FOLDERS[0].resolve() == FOLDERS[1].resolve()
