"""The objectives of docs/extending.md give the same gradient on two ranks as on one."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.distributed.feature_runs import FIVE_PAIRS, found_gradient, with_inputs
from tests.extending_page import EXAMPLES
from vldd_dist.distillation.objectives import OuterGradient
from vldd_dist.plugins import OBJECTIVES
from vldd_dist.sharding.ranks import SOLO, Ranks
from vldd_dist.store.store import Store
from vldd_dist.testing.processes.group import Group
from vldd_dist.testing.unroll_cases import relative

# The cosine is of unrolled steps, whose gradients rounding changes more.
TOLERANCES = {"gradient_matching": 1e-4, "mean_matching": 1e-5, "cosine_trajectory": 1e-3}


def overrides(name: str) -> list[str]:
    settings = ", inner_steps: 2, max_start_epoch: 1" if name == "cosine_trajectory" else ""
    return [*FIVE_PAIRS, f"distill.objective={{name: {name}{settings}}}", "experts.count=1"]


def gradient_of(ranks: Ranks, folder: str, name: str, url: str) -> OuterGradient:
    """This rank's part of the gradient of the first outer step, with the example entered in this process."""
    file, _, target, *_ = EXAMPLES[name]
    sys.path.insert(0, folder)
    OBJECTIVES.entries[name] = target
    try:
        return found_gradient(ranks, url, overrides(name), 0)
    finally:
        del OBJECTIVES.entries[name]
        sys.path.remove(folder)
        sys.modules.pop(file, None)


def test_all_objectives_of_the_page_are_compared() -> None:
    assert {name for name, (_, registry, *_) in EXAMPLES.items() if registry == "OBJECTIVES"} == TOLERANCES.keys()


@pytest.mark.parametrize("name", TOLERANCES)
def test_two_ranks_give_the_gradient_of_one(
    name: str, store: Store, tmp_path: Path, group: Callable[[int], Group], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, _, target, _, code = EXAMPLES[name]
    (tmp_path / f"{file}.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(OBJECTIVES.entries, name, target)
    with_inputs(store, overrides(name))
    parts = group(2).run(gradient_of, str(tmp_path), name, store.url)
    whole = found_gradient(SOLO, store.url, overrides(name), 0)
    tolerance = TOLERANCES[name]
    assert torch.cat([part.rows for part in parts]).tolist() == whole.rows.tolist()
    for key, gradient in whole.row_gradients.items():
        assert relative(torch.cat([part.row_gradients[key] for part in parts]), gradient) < tolerance, key
    for part in parts:
        assert part.terms == pytest.approx(whole.terms, rel=tolerance)
        for key, gradient in whole.shared_gradients.items():
            assert relative(part.shared_gradients[key], gradient) < tolerance, key
