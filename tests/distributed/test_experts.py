"""An expert on several ranks: the trajectory does not depend on their number, and any number of ranks can read it."""

import shutil
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.distributed.stopping import execute_until
from vldd_dist.artifacts.tensor_files import snapshot_parts, tensors
from vldd_dist.artifacts.tensor_files.tensor_cache import TensorCache
from vldd_dist.artifacts.tensor_files.trajectories import Trajectory, snapshot_name
from vldd_dist.artifacts.units import UnitReader
from vldd_dist.config.base import Sharding
from vldd_dist.pipeline.graphs.experiment import Graph
from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.sharding.ranks import SOLO, Ranks
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny_experiment import DATA_KINDS, experiment, run, units_of
from vldd_dist.testing.processes.group import Group
from vldd_dist.testing.unroll_cases import relative

Groups = Callable[[int], Group]

# The last batch has one image, so that some ranks have none; the text head has dropout, whose masks must not differ.
EXPERTS = [
    "data.train_images=49",
    "experts.count=1",
    "experts.keep=all",
    "model.text.head.dropout=0.2",
    "coresets.methods=[random]",
]
# 245 entries: the last batch has five, on three ranks.
ALL = ["experts.captions=all"]
VIT_LORA = ["model.image.model=test_vit", "model.image.model_args={img_size: 32}", "model.image.train=lora"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The inputs of an expert."""
    store = Store(str(tmp_path_factory.mktemp("prepared")))
    run(store, [unit for unit in Graph(experiment(*EXPERTS)).units() if unit.kind in DATA_KINDS])
    return store


@pytest.fixture(scope="module")
def alone(prepared: Store, tmp_path_factory: pytest.TempPathFactory) -> Callable[[list[str]], Store]:
    """overrides -> a store with an expert that one process trained without interruption."""
    trained: dict[str, Store] = {}

    def of(overrides: list[str]) -> Store:
        if (key := " ".join(overrides)) not in trained:
            folder = tmp_path_factory.mktemp("alone") / "store"
            shutil.copytree(prepared.root, folder)
            trained[key] = Store(str(folder))
            train(SOLO, str(folder), overrides)
        return trained[key]

    return of


def expert_of(overrides: list[str]) -> WorkUnit:
    (unit,) = units_of(experiment(*EXPERTS, *overrides), "expert")
    return unit


def train(ranks: Ranks, url: str, overrides: list[str], stop_at: int | None = None) -> None:
    """Run the expert's unit, up to the checkpoint of epoch `stop_at` if it is given."""
    execute_until(ranks, url, expert_of(overrides), stop_at)


def train_in_parts(ranks: Ranks, url: str, overrides: list[str], stop_at: int | None = None) -> None:
    """The same, with snapshots in parts whatever their size."""
    large = snapshot_parts.LARGE_BYTES
    snapshot_parts.LARGE_BYTES = 0
    try:
        train(ranks, url, overrides, stop_at)
    finally:
        snapshot_parts.LARGE_BYTES = large


def trajectory(store: Store, overrides: list[str]) -> Trajectory:
    return Trajectory(UnitReader(store, "expert", expert_of(overrides).id), TensorCache())


def ways(store: Store, overrides: list[str]) -> list[Tensor]:
    """The change of all parameters from the start to the end of each epoch."""
    snapshots = trajectory(store, overrides)
    assert snapshots.epochs == [0, 1, 2, 3]
    towers = [[sorted(snapshots.snapshot(epoch, tower).items()) for tower in ("image", "text")] for epoch in range(4)]
    flat = [torch.cat([value.flatten() for named in pair for _, value in named]) for pair in towers]
    return [end - flat[0] for end in flat[1:]]


@pytest.mark.parametrize(
    ("world", "sharding", "model"),
    [
        *((2, sharding, []) for sharding in ("none", "zero1", "zero2", "zero3")),
        *((3, sharding, []) for sharding in ("none", "fsdp")),
        (2, "zero3", VIT_LORA),
        (2, "fsdp", VIT_LORA),
        (3, "none", ALL),
    ],
    ids=lambda value: "-".join(part.partition("=")[2] for part in value) if isinstance(value, list) else str(value),
)
def test_the_number_of_ranks_does_not_change_the_trajectory(
    world: int,
    sharding: Sharding,
    model: list[str],
    copy: Callable[[str], Store],
    alone: Callable[[list[str]], Store],
    group: Groups,
) -> None:
    together = copy("together")
    sharded = [*model, f"experts.workers={world}", f"experts.sharding={sharding}"]
    group(world).run(train, together.url, sharded)
    # Rounding errors grow from step to step, and of all captions there are five times as many: 2e-5 in the first epoch, and
    # 3e-4 to 5e-4 in the third, depending on the CPU.
    limit = 2e-3 if model == ALL else 1e-4
    for found, wanted in zip(ways(together, sharded), ways(alone(model), model), strict=True):
        assert float(wanted.norm()) > 0.01
        assert relative(found, wanted) < limit
    facts = [UnitReader(store, "expert", expert_of(model).id).manifest.facts for store in (alone(model), together)]
    assert facts[1]["loss"] == pytest.approx(facts[0]["loss"], rel=limit)
    names = UnitReader(together, "expert", expert_of(sharded).id).manifest.objects
    assert f"epoch-0002/image-{world:05d}-of-{world:05d}.safetensors" in names


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((2, "none"), (3, "none")),
        ((2, "zero3"), (1, "none")),
        ((1, "none"), (2, "zero2")),
        ((2, "fsdp"), (3, "zero3")),
        ((2, "zero3"), (3, "fsdp")),
    ],
    ids=lambda value: f"{value[0]}-{value[1]}",
)
def test_an_expert_resumes_with_other_ranks_and_sharding(
    before: tuple[int, Sharding],
    after: tuple[int, Sharding],
    copy: Callable[[str], Store],
    alone: Callable[[list[str]], Store],
    group: Groups,
) -> None:
    broken = copy("broken")
    for (world, sharding), stop_at in ((before, 2), (after, None)):
        if world == 1:
            train(SOLO, broken.url, [], stop_at)
        else:
            group(world).run(train, broken.url, [f"experts.workers={world}", f"experts.sharding={sharding}"], stop_at)
    for found, wanted in zip(ways(broken, []), ways(alone([]), []), strict=True):
        assert relative(found, wanted) < 1e-4
    names = UnitReader(broken, "expert", expert_of([]).id).manifest.objects
    resumed = {snapshot_name(2, "image", 0, before[0]), snapshot_name(3, "image", 0, after[0])}
    assert resumed <= set(names), "trained from scratch, all snapshots would be of the second number of ranks"


def test_an_expert_whose_snapshots_are_in_parts_resumes_with_other_ranks_and_without_parts(
    copy: Callable[[str], Store], alone: Callable[[list[str]], Store], group: Groups
) -> None:
    broken = copy("broken")
    train_in_parts(SOLO, broken.url, [], 0)
    group(2).run(train_in_parts, broken.url, ["experts.workers=2", "experts.sharding=fsdp"], 1)
    group(3).run(train_in_parts, broken.url, ["experts.workers=3"], 2)
    train(SOLO, broken.url, [])
    for found, wanted in zip(ways(broken, []), ways(alone([]), []), strict=True):
        assert relative(found, wanted) < 1e-4
    reader = UnitReader(broken, "expert", expert_of([]).id)
    for epoch, ranks in enumerate((1, 2, 3, 1)):
        for rank in range(ranks):
            name = snapshot_name(epoch, "image", rank, ranks)
            assert all(key.startswith("part-") is (epoch < 3) for key in tensors.decode(reader.read(name), name))


def test_an_expert_whose_snapshots_are_in_parts_is_the_same_to_the_bit(
    copy: Callable[[str], Store], alone: Callable[[list[str]], Store]
) -> None:
    in_parts = copy("in_parts")
    train_in_parts(SOLO, in_parts.url, [], 1)
    train_in_parts(SOLO, in_parts.url, [])
    for found, wanted in zip(ways(in_parts, []), ways(alone([]), []), strict=True):
        assert torch.equal(found, wanted)


def test_an_expert_of_all_captions_resumes_bit_identically(
    copy: Callable[[str], Store], alone: Callable[[list[str]], Store]
) -> None:
    broken = copy("broken")
    train(SOLO, broken.url, ALL, 2)
    train(SOLO, broken.url, ALL)
    readers = [UnitReader(store, "expert", expert_of(ALL).id) for store in (broken, alone(ALL))]
    found, wanted = ({name: info.sha256 for name, info in reader.manifest.objects.items()} for reader in readers)
    assert found == wanted
    assert readers[0].manifest.facts == readers[1].manifest.facts


def test_slices_of_a_snapshot_in_row_files(copy: Callable[[str], Store], group: Groups) -> None:
    """Three ranks wrote the snapshot. A range of it is read from the row files that hold the range."""
    store = copy("store")
    sharded = ["experts.workers=3"]
    group(3).run(train, store.url, sharded)
    snapshots = trajectory(store, sharded)
    whole = snapshots.snapshot(2, "image")
    for pieces in (1, 2, 5):
        for piece in range(pieces):
            limits = {name: (v.numel() * piece // pieces, v.numel() * (piece + 1) // pieces) for name, v in whole.items()}
            for name, values in snapshots.slices(2, "image", limits).items():
                assert torch.equal(values, whole[name].flatten()[slice(*limits[name])])
