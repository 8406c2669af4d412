"""One expert of the tiny experiment: what is trained, kept and counted."""

import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from vldd_dist.artifacts.checkpoints import UnitCheckpoints
from vldd_dist.artifacts.tensor_files.tensor_cache import TensorCache
from vldd_dist.artifacts.tensor_files.trajectories import Trajectory
from vldd_dist.artifacts.units import UnitReader
from vldd_dist.errors import DivergenceError, StoreError
from vldd_dist.events import Progress, SendReport, UnitReport
from vldd_dist.experts import train as train_module
from vldd_dist.experts.forgetting import ForgettingCounts
from vldd_dist.experts.train import ExpertTraining
from vldd_dist.models.image.frozen_backbone import FrozenBackbone
from vldd_dist.pipeline.context import read_tensors
from vldd_dist.pipeline.graphs.experiment import Graph
from vldd_dist.seeding import derive_seed
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny import HANG_SECONDS
from vldd_dist.testing.experiments.tiny_experiment import DATA_KINDS, experiment, run, units_of

FAST = ["experts.epochs=2", "distill.objective.max_start_epoch=1", "experts.augment=null", "experts.keep=all"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with the inputs of an expert, and the expert that the others are compared with."""
    made = Store(str(tmp_path_factory.mktemp("experts")))
    units = Graph(experiment(*FAST)).units()
    run(made, [unit for unit in units if unit.kind in DATA_KINDS])
    train(made)
    return made


def train(store: Store, *overrides: str, index: int = 0, seed: int = 0, report: SendReport = lambda event: None) -> UnitReader:
    unit = units_of(experiment(*FAST, *overrides), "expert")[index]
    # Only the unit's seed is changed: the experiment's seed would change the data too.
    unit = replace(unit, spec=unit.spec | {"seed": seed})
    run(store, [unit], report)
    return UnitReader(store, "expert", unit.id)


def ends(reader: UnitReader, epoch: int = 2) -> dict[str, Tensor]:
    """Each tower's parameters after an epoch, in one vector."""
    trajectory = Trajectory(reader, TensorCache())
    return {
        tower: torch.cat([value.flatten() for _, value in sorted(trajectory.snapshot(epoch, tower).items())])
        for tower in ("image", "text")
    }


def test_an_expert_learns(store: Store) -> None:
    facts = train(store, "experts.epochs=6").manifest.facts
    assert len(facts["loss"]) == 6
    assert facts["loss"][-1] < facts["loss"][0]
    assert len(facts["validation"]) == 7
    assert facts["epochs"] == list(range(7))


def test_an_epochs_loss_is_the_mean_of_its_batches(store: Store) -> None:
    reports: list[UnitReport] = []
    facts = train(store, seed=2, report=reports.append).manifest.facts
    events = [event for event in reports if isinstance(event, Progress)]
    assert [(event.done, event.total) for event in events] == [(done, 96) for done in range(16, 97, 16)]
    for epoch in (1, 2):
        losses = [event.loss for event in events if event.epoch == epoch]
        assert len(losses) == 3
        assert facts["loss"][epoch - 1] == pytest.approx(sum(losses) / 3)


def test_an_epoch_of_all_captions_has_a_step_for_every_batch_of_captions(store: Store) -> None:
    """48 images with five captions each, in batches of 16: 15 steps an epoch."""
    reports: list[UnitReport] = []
    reader = train(store, "experts.captions=all", report=reports.append)
    events = [event for event in reports if isinstance(event, Progress)]
    assert [(event.done, event.total) for event in events] == [(done, 480) for done in range(16, 481, 16)]
    counts = ForgettingCounts(**read_tensors(reader, "forgetting.safetensors"))
    assert len(counts.events) == len(counts.learned) == len(counts.ever) == 48
    assert int(counts.events.sum()) > 0
    assert int(counts.ever.sum()) > int(counts.learned.sum())
    assert all(not torch.equal(ends(reader)[tower], ends(train(store))[tower]) for tower in ("image", "text"))


def test_only_snapshots_that_can_be_reached_and_the_last_are_kept(store: Store) -> None:
    reader = train(store, "experts.epochs=6", "experts.keep=reachable")
    assert reader.manifest.facts["epochs"] == [0, 1, 2, 6]
    names = {f"epoch-{epoch:04d}/{tower}.safetensors" for epoch in (0, 1, 2, 6) for tower in ("image", "text")}
    assert set(reader.manifest.objects) == names | {"forgetting.safetensors"}


def test_of_strided_starts_the_exact_snapshots_are_kept(store: Store) -> None:
    starts = ["distill.objective.max_start_epoch=4", "distill.objective.start_stride=3", "distill.objective.expert_epochs=2"]
    tree = experiment(*FAST, *starts, "experts.epochs=7", "experts.keep=reachable")
    (unit, *_) = units_of(tree, "expert")
    assert unit.spec["kept_epochs"] == [0, 2, 3, 5, 7]
    run(store, [unit])
    reader = UnitReader(store, "expert", unit.id)
    assert reader.manifest.facts["epochs"] == [0, 2, 3, 5, 7]
    kept = {name.split("/")[0] for name in reader.manifest.objects if name.startswith("epoch-")}
    assert kept == {f"epoch-{epoch:04d}" for epoch in (0, 2, 3, 5, 7)}


def test_each_epoch_of_each_expert_has_an_order_of_its_own(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    visit = ForgettingCounts.visit

    def watched(self: ForgettingCounts, indices: Tensor, learned: Tensor) -> None:
        seen.extend(indices.tolist())
        visit(self, indices, learned)

    monkeypatch.setattr(ForgettingCounts, "visit", watched)
    train(store, seed=3)
    train(store, seed=3, index=1)
    orders = [tuple(seen[start : start + 48]) for start in range(0, 192, 48)]
    assert all(sorted(order) == list(range(48)) for order in orders)
    assert len(set(orders)) == 4


def test_the_first_snapshot_is_the_start_and_each_epoch_moves_it(store: Store) -> None:
    reader = train(store)
    for tower in ("image", "text"):
        way = [ends(reader, epoch)[tower] for epoch in range(3)]
        assert len({float(end.double().norm()) for end in way}) == 3
    untrained = ends(train(store, "experts.lr_image=1e-30", "experts.lr_text=1e-30"))
    for tower in ("image", "text"):
        torch.testing.assert_close(untrained[tower], ends(reader, 0)[tower], rtol=0, atol=1e-20)


@pytest.mark.parametrize(("tower", "other"), [("image", "text"), ("text", "image")])
def test_each_tower_has_its_own_rate(tower: str, other: str, store: Store) -> None:
    still = ends(train(store, f"experts.lr_{tower}=1e-30"))
    torch.testing.assert_close(still[tower], ends(train(store), 0)[tower], rtol=0, atol=1e-20)
    assert not torch.equal(still[other], ends(train(store), 0)[other])


@pytest.mark.parametrize(
    "overrides",
    [
        ["experts.momentum=0.4"],
        ["experts.weight_decay=0.1"],
        ["experts.batch_size=12"],
        ["model.loss.temperature=0.1"],
        ["experts.augment={flip: true, randaugment_ops: 0}"],
        ["model.text.head.dropout=0.5"],
    ],
    ids=lambda overrides: overrides[0],
)
def test_settings_are_not_ignored(overrides: list[str], store: Store) -> None:
    wanted, found = ends(train(store)), ends(train(store, *overrides))
    assert all(not torch.equal(found[tower], wanted[tower]) for tower in ("image", "text"))


def test_experts_differ_by_their_index_and_seed(store: Store) -> None:
    for other in (train(store, index=1), train(store, seed=1)):
        assert not torch.equal(ends(train(store), 0)["text"], ends(other, 0)["text"])
        assert not torch.equal(ends(train(store))["text"], ends(other)["text"])


def test_each_epoch_draws_its_masks_by_seed_expert_and_epoch(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []

    def watched(*parts: int | str) -> int:
        drawn.append(parts)
        return derive_seed(*parts)

    monkeypatch.setattr(train_module, "derive_seed", watched)
    train(store, seed=5, index=1)
    assert [parts for parts in drawn if "dropout" in parts] == [(5, "expert", 1, "dropout", epoch) for epoch in (1, 2)]


def test_weight_decay_shrinks(store: Store) -> None:
    plain, decayed = ends(train(store)), ends(train(store, "experts.weight_decay=1"))
    assert float(decayed["text"].norm()) < 0.9 * float(plain["text"].norm())


def test_the_counts_are_kept_with_the_expert(store: Store) -> None:
    counts = ForgettingCounts(**read_tensors(train(store, "experts.epochs=6"), "forgetting.safetensors"))
    assert len(counts.events) == 48
    assert int(counts.events.sum()) > 0
    assert int(counts.ever.sum()) > int(counts.learned.sum())
    assert bool((counts.ever | ~counts.learned).all())
    assert bool((counts.ever[counts.events > 0]).all())


def test_learned_is_ranking_the_own_caption_first() -> None:
    """The captions of a batch are ranked by cosine similarity, so that norms have no effect."""
    training: Any = ExpertTraining.__new__(ExpertTraining)
    training.forgetting = ForgettingCounts.empty(5)
    texts = torch.eye(3) * torch.tensor([[1.0], [100.0], [1.0]])
    images = torch.tensor([[5.0, 0.1, 0.0], [0.0, 0.2, 1.0], [0.0, 0.1, 0.2]])
    training._count_forgetting(images, texts, torch.tensor([4, 0, 2]))
    assert training.forgetting.learned.tolist() == [False, False, True, False, True]
    training._count_forgetting(images[:1], texts[:1], torch.tensor([3]))
    assert not training.forgetting.ever[3], "of a single caption every image ranks it first"


def test_a_loss_that_is_not_finite_names_the_setting_to_lower(store: Store) -> None:
    with pytest.raises(
        DivergenceError, match=r"expert 0: the loss is nan in epoch 1: lower experts.lr_image or experts.lr_text"
    ):
        train(store, "experts.lr_image=1e30", "experts.lr_text=1e30")


@pytest.mark.parametrize("captions", ["one", "all"])
def test_a_frozen_backbone_is_not_run_where_its_features_are_known(
    captions: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = ["model.image.weights=attributes", "pretrain.images=32", "pretrain.epochs=1"]
    tree = experiment(*FAST, *weights, "model.image.train=head", "model.image.head.kind=linear", "model.joint_dim=16")
    store = Store(str(tmp_path))
    run(store, [unit for unit in Graph(tree).units() if unit.kind in DATA_KINDS])
    unit = units_of(tree.model_copy(update={"experts": tree.experts.model_copy(update={"captions": captions})}), "expert")[0]
    by_images = replace(unit, inputs={role: given for role, given in unit.inputs.items() if role != "image_features"})
    run(store, [by_images])
    monkeypatch.setattr(FrozenBackbone, "features", None)
    run(store, [unit])
    with_features, computed = (ends(UnitReader(store, "expert", one.id)) for one in (unit, by_images))
    torch.testing.assert_close(with_features, computed, rtol=1e-4, atol=1e-5)


def test_a_failed_upload_ends_the_attempt_before_the_next_epoch_does(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it would compute until then is lost with the attempt."""
    ended = threading.Event()
    save = UnitCheckpoints.save

    def failing(self: UnitCheckpoints, step: int, *more: Any) -> None:
        if step == 1:
            ended.set()
            raise StoreError("the bucket is gone")
        save(self, step, *more)

    def report(event: UnitReport) -> None:
        if isinstance(event, Progress) and event.epoch == 2:
            reports.append(event.done)
            ended.wait(HANG_SECONDS)
            # The upload's future ends just after its function.
            time.sleep(0.1)

    reports: list[int] = []
    monkeypatch.setattr(UnitCheckpoints, "save", failing)
    with pytest.raises(StoreError, match="the bucket is gone"):
        train(store, "experts.epochs=2", "experts.batch_size=4", seed=77, report=report)
    assert len(reports) <= 1
