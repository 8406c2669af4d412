"""A set that was changed after its evaluation is saved without the recalls of the unchanged one."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.cli.command import vldd
from tests.distilled_sets import RECIPE, distilled_set
from vldd_dist import load_distilled
from vldd_dist.distilled_set.distilled import DistilledSet
from vldd_dist.distilled_set.manifest import MANIFEST
from vldd_dist.distilled_set.publishing.write import files_of, save
from vldd_dist.distilled_set.reading import verify
from vldd_dist.models.image.backbone import create_backbone
from vldd_dist.recall_metrics import RECALL_METRICS

RECALLS: dict[str, Any] = {
    "distilled": [dict.fromkeys(RECALL_METRICS, 30.0)],
    "random": [dict.fromkeys(RECALL_METRICS, 20.0)],
}
SAID = "The set was changed after its evaluation, so that its recall is not known."


def evaluated(url: Path) -> DistilledSet:
    """A published set, loaded."""
    shown = distilled_set()
    shown.recipe = RECIPE.model_copy(
        update={"image_weights": "in the set", "loss": {"name": "infonce", "learn_temperature": True}}
    )
    shown.shared["log_temperature"] = torch.tensor([-1.0])
    shown.image_weights = create_backbone("test_nfnet", {}, pretrained=False, seed=7).state_dict()
    shown.start_images = shown.pixels()
    shown.facts = {"recalls": RECALLS, "best_validation": 31.0, "outer_steps_to_best": 40}
    save(shown, str(url))
    return load_distilled(str(url))


def black(changed: DistilledSet) -> DistilledSet:
    changed.rows["images"] *= 0
    return changed


def rounded(changed: DistilledSet) -> DistilledSet:
    changed.rows["images"] = changed.rows["images"].half().float()
    return changed


def fewer(changed: DistilledSet) -> DistilledSet:
    rows = {name: rows[:3] for name, rows in changed.rows.items()}
    return replace(changed, rows=rows, captions=changed.captions[:3], start_images=None)


def made_anew(changed: DistilledSet) -> DistilledSet:
    """With the other's facts."""
    one = fewer(changed)
    return DistilledSet(one.rows, one.recipe, one.captions, one.shared, image_weights=one.image_weights, facts=one.facts)


def other_temperature(changed: DistilledSet) -> DistilledSet:
    changed.shared["log_temperature"] += 1
    return changed


def other_recipe(changed: DistilledSet) -> DistilledSet:
    return replace(changed, recipe=changed.recipe.model_copy(update={"epochs": 7}))


def other_weights(changed: DistilledSet) -> DistilledSet:
    assert changed.image_weights is not None
    return replace(changed, image_weights={name: tensor * 2 for name, tensor in changed.image_weights.items()})


CHANGES = [black, rounded, fewer, made_anew, other_temperature, other_recipe, other_weights]


@pytest.mark.parametrize("change", CHANGES)
def test_recalls_of_other_pairs_are_left_out(change: Callable[[DistilledSet], DistilledSet], tmp_path: Path) -> None:
    url = str(tmp_path / "store/distilled/changed")
    save(change(evaluated(tmp_path / "set")), url)
    manifest = verify(url)
    assert (manifest.mean_recall(), manifest.changed_after_evaluation()) == (None, True)
    assert not {"recalls", "best_validation", "recalls_of"} & manifest.facts.keys()
    card = (tmp_path / "store/distilled/changed/README.md").read_text()
    assert SAID in card
    assert not any(said in card for said in ("30.0", "20.0", "TR@1", "test recall", "validation split"))
    assert "| outer steps until the published pairs | 40 (before the set was changed) |" in card
    again = tmp_path / "again"
    save(load_distilled(url), str(again))
    assert (again / MANIFEST).read_bytes() == (tmp_path / "store/distilled/changed" / MANIFEST).read_bytes()


def test_list_and_show_say_that_a_set_was_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = str(tmp_path / "store/distilled/changed")
    save(black(evaluated(tmp_path / "set")), url)
    assert "5 pairs  changed after its evaluation  published" in vldd("list", str(tmp_path / "store"), capsys=capsys)[1]
    shown = json.loads(vldd("show", url, "--json", capsys=capsys)[1])
    assert (shown["mean_recall"], shown["changed_after_evaluation"]) == (None, True)


def unchanged(changed: DistilledSet) -> DistilledSet:
    return changed


def without_start_images(changed: DistilledSet) -> DistilledSet:
    return replace(changed, start_images=None)


def other_inner_rates(changed: DistilledSet) -> DistilledSet:
    """Students do not use them."""
    changed.shared["log_rates"] += 1
    return changed


@pytest.mark.parametrize("change", [unchanged, without_start_images, other_inner_rates])
def test_what_no_student_is_trained_on_may_change(change: Callable[[DistilledSet], DistilledSet], tmp_path: Path) -> None:
    save(change(evaluated(tmp_path / "set")), str(tmp_path / "other"))
    manifest = verify(str(tmp_path / "other"))
    assert (manifest.mean_recall(), manifest.changed_after_evaluation()) == (30.0, False)
    assert "recalls_of" not in manifest.facts
    save(load_distilled(str(tmp_path / "other")), str(tmp_path / "other"))
    assert SAID not in (tmp_path / "other/README.md").read_text()


def test_the_first_pairs_of_a_set_do_not_have_its_recalls(tmp_path: Path) -> None:
    evaluated(tmp_path / "set")
    assert SAID in files_of(DistilledSet.load(str(tmp_path / "set"), most=3))["README.md"].decode()


def test_a_changed_set_may_be_evaluated_again(tmp_path: Path) -> None:
    save(black(evaluated(tmp_path / "set")), str(tmp_path / "changed"))
    again = load_distilled(str(tmp_path / "changed"))
    again.facts["recalls"] = {"distilled": [dict.fromkeys(RECALL_METRICS, 7.0)]}
    save(again, str(tmp_path / "again"))
    manifest = verify(str(tmp_path / "again"))
    assert (manifest.mean_recall(), manifest.changed_after_evaluation()) == (7.0, False)
    at_once = black(load_distilled(str(tmp_path / "set")))
    at_once.facts["recalls"] = again.facts["recalls"]
    del at_once.facts["recalls_of"]
    save(at_once, str(tmp_path / "at-once"))
    assert verify(str(tmp_path / "at-once")).mean_recall() == 7.0
