"""A similarity that distillation learns: it is passed from the distillation to the published set, and experts do not depend on
it."""

from typing import Any

import pytest
import torch

from tests.distributed.stopping import execute_until
from vldd_dist import load_distilled
from vldd_dist.artifacts.tensor_files import tensors
from vldd_dist.artifacts.units import UnitReader
from vldd_dist.config.experiment import Experiment
from vldd_dist.monitoring.reports.report import Reporter
from vldd_dist.pipeline.context import read_rows
from vldd_dist.pipeline.graphs.experiment import Graph
from vldd_dist.sharding.ranks import SOLO
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny_experiment import DATA_KINDS, experiment, run, units_of

TINIEST = [
    "data.train_images=24",
    "experts.count=1",
    "experts.epochs=2",
    "distill.batch_size=3",
    "distill.outer_steps=4",
    "distill.checkpoint_every=4",
    "distill.validate_every=4",
    "coresets.methods=[random]",
]


def described(loss: str, *overrides: str) -> Experiment:
    return experiment(*TINIEST, f"model.loss={loss}", *overrides)


@pytest.mark.parametrize(
    ("similarity", "shapes"),
    [
        (
            {"kind": "low_rank", "rank": 2, "alpha": 1.5, "lr": 0.1},
            {"similarity_diagonal": (4,), "similarity_left": (4, 2), "similarity_right": (4, 2)},
        ),
        ({"kind": "full", "lr": 0.1}, {"similarity": (4, 4), "number": (4,)}),
    ],
    ids=["low-rank", "full"],
)
def test_it_is_learned_stored_published_and_trained_on(
    similarity: dict[str, Any], shapes: dict[str, tuple[int, ...]], store: Store
) -> None:
    tree = described(f"{{name: wbce, similarity: {similarity}}}")
    units = list(Graph(tree).units())
    (distilled,), (published,) = units_of(tree, "distillation"), units_of(tree, "publication")
    run(store, [unit for unit in units if unit.kind in (*DATA_KINDS, "expert")])
    last = execute_until(SOLO, store.url, distilled, None)
    run(store, units)
    start = read_rows(UnitReader(store, distilled.kind, distilled.id), "start")
    assert {name: tuple(rows.shape) for name, rows in start.items() if name in shapes} == shapes
    # If the start validated best, it is the result; the learned values are in the last checkpoint.
    moved = tensors.decode(last["rows.safetensors"], "rows")
    for name in shapes:
        assert torch.equal(moved[f"pairs/{name}"], start[name]) == (name == "number"), name
    found = load_distilled(store.url_of(UnitReader(store, published.kind, published.id).manifest.facts["folder"]))
    assert {name: tuple(rows.shape) for name, rows in found.rows.items() if name in shapes} == shapes
    assert found.recipe.loss["similarity"] == similarity
    Reporter(Graph(tree), store).write()
    assert b'<figure class="similarity">' in store.read(f"report/{tree.name}/index.html")
    # A user's training loop, as on the card: the loss accepts the batch of a loader.
    loader = torch.utils.data.DataLoader(found.as_dataset(), batch_size=3, shuffle=True)
    features = torch.randn(3, 8), torch.randn(3, 8)
    for batch in loader:
        b = len(batch["images"])
        assert bool(found.loss(features[0][:b], features[1][:b], batch, found.shared).isfinite())


def test_only_the_similarity_is_learned(store: Store) -> None:
    """Of real pairs, which keep their images and texts: the counterpart of a coreset with the same loss."""
    tree = described("{name: wbce, similarity: {rank: 2, lr: 0.1}}", "distill.lr_images=0", "distill.lr_texts=0")
    (distilled,) = units_of(tree, "distillation")
    run(store, [unit for unit in Graph(tree).units() if unit.kind in (*DATA_KINDS, "expert")])
    last = tensors.decode(execute_until(SOLO, store.url, distilled, None)["rows.safetensors"], "rows")
    start = read_rows(UnitReader(store, distilled.kind, distilled.id), "start")
    unchanged = {name for name in start if torch.equal(last[f"pairs/{name}"], start[name])}
    assert unchanged == {"images", "texts"}


def test_experts_and_coresets_are_the_same_whatever_is_learned_of_it() -> None:
    trees = [
        described("{name: wbce, similarity: {rank: 2}}"),
        described("{name: wbce, similarity: {kind: full, lr: 3}, learn_temperature: true}"),
    ]
    graphs = [{unit.label: unit.id for unit in Graph(tree).units()} for tree in trees]
    differ = {label for label in graphs[0] if graphs[0][label] != graphs[1][label]}
    assert {label.split()[0] for label in graphs[0]} - {label.split()[0] for label in differ} >= {"expert", "random"}
    assert all("distillation" in label or "publication" in label for label in differ), differ


def test_experts_have_the_loss_of_their_own_section() -> None:
    own = described("{name: wbce, similarity: {rank: 2}}", "experts.loss=infonce")
    other = described("{name: infonce, learn_temperature: true}")
    plain = described("infonce")
    ids = [[unit.id for unit in units_of(tree, "expert")] for tree in (own, other, plain)]
    assert ids[0] == ids[1] == ids[2]
    assert ids[0] != [unit.id for unit in units_of(described("wbce"), "expert")]
    (expert,), (distilled,) = units_of(own, "expert"), units_of(own, "distillation")
    assert expert.spec["model"]["loss"]["name"] == "infonce"
    assert distilled.spec["model"]["loss"]["name"] == "wbce"
