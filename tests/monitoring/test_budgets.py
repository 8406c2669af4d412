"""Sets are not compared with plain pairs of fewer bytes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.command import vldd
from tests.distilled_sets import with_similarity
from tests.studies import load_study
from vldd_dist.config.loading.descriptions import LoadedStudy
from vldd_dist.errors import ConfigError
from vldd_dist.models.losses.infonce import InfoNCE
from vldd_dist.monitoring.reports.budgets import (
    BudgetedSet,
    budgeted_sets,
    check_budgets,
    compared_sizes,
    sizes_with_similarity,
)

WBCE = {"name": "wbce", "similarity": {"kind": "full"}}


def study(folder: Path, budgets: dict[int, int], pairs: list[int], loss: Any = "infonce", **table: Any) -> LoadedStudy:
    path, changes = folder / "study.yaml", {"distill.pairs": pairs, "model.loss": loss}
    tree = {"name": "s", "base": "scenes", "variants": {"one": changes, "two": {"distill.pairs": [5]}}}
    path.write_text(yaml.safe_dump(tree | {"tables": {"t": {"title": "T", "budgets": budgets, **table}}}))
    return load_study(path)


@pytest.mark.parametrize("similarity", [{"kind": "none"}, {"kind": "low_rank", "rank": 2}, {"kind": "full"}])
def test_sizes_are_those_of_the_sets(similarity: dict[str, Any]) -> None:
    distilled = with_similarity(similarity)
    of_pair = 4 * (3 * 16 * 16 + 8)
    assert BudgetedSet("a", 5, 6, of_pair, distilled.loss).size(5) == sum(distilled.sizes.values())
    assert BudgetedSet("a", 5, 6, of_pair, None).size(5) == 5 * of_pair
    assert BudgetedSet("a", 5, 6, of_pair, InfoNCE(learn_temperature=True)).size(5) == 5 * of_pair + 4
    assert BudgetedSet("a", 5, 10**6, of_pair, distilled.loss).size(10**6) > 10**6, "without the memory of a large similarity"


def test_sizes_of_an_experiment_are_those_of_its_sets_with_a_learned_similarity(tmp_path: Path) -> None:
    loaded = study(tmp_path, {}, [5, 7], WBCE)
    pair = 4 * (3 * 32 * 32 + 8)
    assert sizes_with_similarity(loaded.experiments["one"], 8) == {5: (5 * pair + 100, 5 * pair), 7: (7 * pair + 196, 7 * pair)}
    assert sizes_with_similarity(loaded.experiments["two"], 8) == {}
    of_features = 4 * (20 + 8)
    assert sizes_with_similarity(loaded.experiments["one"], 8, 20)[5] == (5 * of_features + 100, 5 * of_features)


def test_a_set_larger_than_its_budget_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both sizes are named, and how many pairs fit."""
    pair = 4 * (3 * 32 * 32 + 384)
    with pytest.raises(ConfigError, match="into which 10 of its pairs fit") as raised:
        check_budgets(study(tmp_path, {20: 10}, [10, 20]))
    assert str(raised.value).startswith(
        f"tables.t.budgets: 20: a set of one has {20 * pair:,} bytes, more than the {10 * pair:,} bytes of 10 plain pairs, "
    )
    _, _, err = vldd("run", str(tmp_path / "study.yaml"), "--plan", capsys=capsys)
    assert str(raised.value) in err
    # At 32 px the similarity of 99 pairs is larger than a pair.
    with pytest.raises(ConfigError, match="of 100 plain pairs, into which 97 of its pairs fit"):
        check_budgets(study(tmp_path, {99: 100}, [99], WBCE))
    with pytest.raises(ConfigError, match="of 1 plain pairs, into which 0 of its pairs fit"):
        check_budgets(study(tmp_path, {2: 1}, [2], WBCE))
    check_budgets(study(tmp_path, {97: 100}, [97], WBCE))
    check_budgets(study(tmp_path, {90: 100}, [90]))
    # Coresets have no similarity.
    check_budgets(study(tmp_path, {99: 100}, [99], WBCE, methods=["random"]))


def test_where_the_text_encoder_is_not_known_nothing_is_refused_and_no_size_is_stated(tmp_path: Path) -> None:
    loaded = study(tmp_path, {20: 10}, [10, 20])
    table = loaded.study.tables["t"]
    assert compared_sizes(table, loaded.experiments, lambda variant: None) == {}
    pair = 4 * (3 * 32 * 32 + 8)
    assert compared_sizes(table, loaded.experiments, lambda variant: 8) == {20: {10 * pair: 20 * pair}}
    smaller = loaded.experiments["one"].model_copy(update={"model": loaded.experiments["two"].model})
    both = loaded.with_experiments({**loaded.experiments, "two": smaller})
    assert compared_sizes(table, both.experiments, {"one": 8, "two": 0}.get) == {
        20: {10 * pair: 20 * pair, 10 * (pair - 32): 20 * (pair - 32)}
    }


@pytest.mark.parametrize(("preset", "dim"), [("methods-flickr8k", 384), ("methods-flickr30k", 768)])
def test_the_sets_of_the_presets_are_within_their_budgets(preset: str, dim: int) -> None:
    loaded = load_study(preset)
    sets = [
        one for table in loaded.study.tables.values() for one in budgeted_sets(table, loaded.experiments, lambda variant: dim)
    ]
    assert sets
    assert all(0.99 * one.plain < one.size(one.pairs) <= one.plain for one in sets)
    largest = [one for one in sets if one.pairs > 400 and "ptm" in one.variant]
    assert all(replace(one, pairs=one.pairs + 1).size(one.pairs + 1) > one.plain for one in largest)
