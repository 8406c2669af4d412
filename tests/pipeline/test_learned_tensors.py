"""A loss in one file that learns row tensors and a shared tensor, used by experts, student, evaluation and publication."""

import pytest
import torch

from vldd_dist import load_distilled
from vldd_dist.artifacts.units import UnitReader
from vldd_dist.pipeline.context import read_rows, read_tensors
from vldd_dist.pipeline.graphs.experiment import Graph
from vldd_dist.plugins import LOSSES
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny_experiment import experiment, run, units_of
from vldd_dist.testing.unroll_cases import ScaledInfoNCE


def test_learned_tensors_of_a_loss_pass_through_all_stages(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOSSES.entries, "scaled_infonce", "vldd_dist.testing.unroll_cases:ScaledInfoNCE")
    tree = experiment(
        "model.loss={name: scaled_infonce, lr_temperature: 0.1}",
        "data.train_images=24",
        "experts.count=1",
        "experts.epochs=2",
        "distill.batch_size=3",
        "distill.outer_steps=4",
        "distill.validate_every=4",
        "coresets.methods=[random]",
    )
    run(store, Graph(tree).units())
    (distilled,), (published,) = units_of(tree, "distillation"), units_of(tree, "publication")
    reader = UnitReader(store, distilled.kind, distilled.id)
    start, pairs = read_rows(reader, "start"), read_rows(reader, "pairs")
    shared, curves = read_tensors(reader, "shared.safetensors"), read_tensors(reader, "curves.safetensors")
    assert set(pairs) == {"images", "texts", "log_scales"}
    torch.testing.assert_close(start["log_scales"], torch.tensor([0.0, 0.01, 0.02, 0.03]))
    assert set(shared) == {"log_rates", "log_temperature"}
    # If the start validated best, it is the result; the learned values are in the curves.
    assert curves["shared.log_temperature"].shape == (4, 1)
    assert curves["shared.log_temperature"].unique().numel() == 4
    found = load_distilled(store.url_of(UnitReader(store, published.kind, published.id).manifest.facts["folder"]))
    assert {name: rows.shape for name, rows in found.rows.items()} == {name: rows.shape for name, rows in pairs.items()}
    assert set(found.as_dataset()[0]) == {"images", "texts", "log_scales"}
    assert isinstance(found.loss, ScaledInfoNCE)
    assert set(found.learned) == {"inner_lr_image", "inner_lr_text", "temperature"}
    batch = {name: rows[:3] for name, rows in found.rows.items()}
    loss = found.loss(torch.randn(3, 8), torch.randn(3, 8), batch, found.shared)
    assert bool(loss.isfinite())
