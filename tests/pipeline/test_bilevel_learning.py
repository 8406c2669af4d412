"""The bilevel objective with a loss that learns tensors of its own, and a distillation by it that is stopped and resumed."""

import shutil
from pathlib import Path

import pytest

from tests.distributed.stopping import execute_until
from tests.pipeline.bilevel_by_hand import RATES, by_hand, described, found_gradient
from vldd_dist.pipeline.graphs.experiment import Graph
from vldd_dist.sharding.ranks import SOLO
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny_experiment import DATA_KINDS, run, units_of
from vldd_dist.testing.experiments.tiny_units import digests
from vldd_dist.testing.unroll_cases import relative

LEARNING = "model.loss={name: wbce, temperature: 0.3, learn_temperature: true, similarity: {kind: full}}"


@pytest.mark.parametrize("step", [2, 3])
def test_what_the_loss_learns_has_the_gradient_of_training_by_hand(prepared: Store, step: int) -> None:
    """At the odd step some steps are not differentiated."""
    tree = described(f", noise_scale: 0, inner_lr_image: {RATES[0]}, inner_lr_text: {RATES[1]}", "head", LEARNING)
    found, (loss, wanted) = found_gradient(prepared, tree, step), by_hand(prepared, tree, step, tree.model.loss)
    gradients = found.row_gradients | found.shared_gradients
    assert set(gradients) == set(wanted) == {"images", "texts", "similarity", "log_rates", "log_temperature"}
    assert found.terms["real_pairs"] == pytest.approx(loss.item(), rel=1e-4)
    for name, tensor in wanted.items():
        assert float(tensor.norm()) > 0, name
        assert relative(gradients[name], tensor) < 1e-3, name


@pytest.mark.parametrize("train", ["head", "full"])
def test_a_resumed_run_is_bit_identical(train: str, prepared: Store, tmp_path: Path) -> None:
    """With minibatches, a teacher, a running average and all that a loss learns. It stops within an epoch of the real pairs."""
    tree = described(
        ", teacher_weight: 0.5",
        train,
        "experts.count=2",
        "experts.loss=infonce",
        "distill.batch_size=4",
        "distill.ema=0.5",
        LEARNING,
    )
    run(prepared, [unit for unit in Graph(tree).units() if unit.kind in (*DATA_KINDS, "expert")])
    (unit,) = units_of(tree, "distillation")
    ends, kept = [], []
    for name, stops in (("straight", [None]), ("broken", [8, None])):
        shutil.copytree(prepared.root, tmp_path / name)
        store = Store(str(tmp_path / name))
        ends.append([execute_until(SOLO, store.url, unit, stop) for stop in stops][-1])
        kept.append(digests(store, unit))
    assert ends[1] == ends[0]
    assert kept[1] == kept[0]
