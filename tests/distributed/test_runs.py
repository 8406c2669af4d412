"""A distillation on several ranks: the pairs do not depend on their number, and any number of ranks reads a checkpoint."""

import shutil
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.distributed.feature_runs import with_inputs
from tests.distributed.stopping import execute_until
from vldd_dist.artifacts.tensor_files import tensors
from vldd_dist.artifacts.units import UnitReader
from vldd_dist.config.base import Sharding
from vldd_dist.pipeline.context import read_rows
from vldd_dist.sharding.ranks import SOLO, Ranks
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny_experiment import experiment, run, units_of
from vldd_dist.testing.processes.group import Group
from vldd_dist.testing.unroll_cases import relative

Groups = Callable[[int], Group]

# Nine pairs, so that ranks have different numbers of rows; a minibatch of six. SGD, because Adam's first step is only the sign
# of the gradient. The loss learns a shared tensor, and the pairs are averaged.
DISTILL = [
    "distill.pairs=[9]",
    "distill.batch_size=6",
    "distill.optimiser=sgd",
    "model.loss.learn_temperature=true",
    "distill.ema=0.5",
    "distill.lr_images=5",
    "distill.lr_texts=0.5",
    "distill.outer_steps=6",
    "distill.checkpoint_every=2",
    "distill.validate_every=3",
]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The inputs of a distillation, made by one process."""
    return with_inputs(Store(str(tmp_path_factory.mktemp("prepared"))), DISTILL)


def distil(ranks: Ranks, url: str, overrides: list[str], stop_at: int | None = None) -> Tensor:
    """Run the distillation's unit, up to the checkpoint of step `stop_at` if it is given.

    Returns:
        This rank's images after the last checkpoint (those of the best validation may be the start's), averaged if they move.
    """
    (unit,) = units_of(experiment(*DISTILL, *overrides), "distillation")
    written = execute_until(ranks, url, unit, stop_at)
    (rows,) = [data for name, data in written.items() if name.startswith("rows")]
    named = tensors.decode(rows, "rows")
    return named.get("average/images", named["pairs/images"])


@pytest.fixture(scope="module")
def run_alone(prepared: Store, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Store, Tensor]]:
    """overrides -> an uninterrupted run of one process: its store, and the images at the end."""

    @cache
    def distilled(*overrides: str) -> tuple[Store, Tensor]:
        folder = tmp_path_factory.mktemp("alone") / "store"
        shutil.copytree(prepared.root, folder)
        return Store(str(folder)), distil(SOLO, str(folder), list(overrides))

    return distilled


@pytest.fixture
def alone(run_alone: Callable[..., tuple[Store, Tensor]]) -> tuple[Store, Tensor]:
    return run_alone()


def test_dropout_in_a_backbone_is_refused_also_if_only_validation_would_use_it(
    group: Groups, copy: Callable[[str], Store]
) -> None:
    store = copy("dropping")
    # Described for one rank: for several, it is refused before anything runs.
    overrides = ["model.image.model_args={drop_path_rate: 0.1}", "distill.objective.dropout=false"]
    run(store, units_of(experiment(*DISTILL, *overrides), "expert"))
    with pytest.raises(RuntimeError, match=r"drops with probability 0\.\d+, which several ranks do not support"):
        group(2).run(distil, store.root, overrides)


def result(store: Store, overrides: list[str]) -> tuple[dict[str, Tensor], dict[str, Any], list[str]]:
    (unit,) = units_of(experiment(*DISTILL, *overrides), "distillation")
    reader = UnitReader(store, "distillation", unit.id)
    return read_rows(reader, "pairs") | read_rows(reader, "curves"), reader.manifest.facts, sorted(reader.manifest.objects)


def way(store: Store, images: Tensor) -> Tensor:
    """The change of the images since the start, which is much larger than the change."""
    (unit,) = units_of(experiment(*DISTILL), "distillation")
    return images - read_rows(UnitReader(store, "distillation", unit.id), "start")["images"]


def assert_equal_runs(store: Store, images: Tensor, other: Store, other_images: Tensor) -> None:
    """Equal up to rounding errors, which accumulate over the steps."""
    wanted = way(store, images)
    assert float(wanted.norm()) > 0.1
    assert relative(way(other, other_images), wanted) < 1e-4
    wanted_curves, found = (result(one, [])[0] for one in (store, other))
    for name in ("loss", "shared.log_rates", "shared.log_temperature"):
        torch.testing.assert_close(found[name], wanted_curves[name], rtol=1e-4, atol=1e-4)
    assert wanted_curves["shared.log_temperature"].unique().numel() == 6


@pytest.mark.parametrize(("world", "sharding"), [(2, "none"), (3, "none"), (2, "zero3"), (3, "fsdp")])
def test_the_number_of_ranks_does_not_change_the_result(
    world: int, sharding: Sharding, copy: Callable[[str], Store], alone: tuple[Store, Tensor], group: Groups
) -> None:
    together = copy("together")
    ways = [f"distill.workers={world}", f"distill.sharding={sharding}"]
    parts = group(world).run(distil, together.url, ways)
    assert_equal_runs(*alone, together, torch.cat(parts))
    (_, facts, _), (_, facts_together, objects) = result(alone[0], []), result(together, ways)
    assert facts_together["start"] == facts["start"]
    assert [step for step, _ in facts_together["validation"]] == [0, 3, 6]
    assert [name for name in objects if name.startswith("pairs")] == [
        f"pairs-{part + 1:05d}-of-{world:05d}.safetensors" for part in range(world)
    ]


@pytest.mark.parametrize("sharding", ["none", "zero3"])
def test_ranks_find_starts_and_shortcuts_together(
    sharding: Sharding, copy: Callable[[str], Store], run_alone: Callable[..., tuple[Store, Tensor]], group: Groups
) -> None:
    """The lengths of the paths of an expert and its towers are sums over the ranks' shards."""
    there = copy("there")
    ways = [
        "distill.objective.shortcut={last_epoch: 3}",
        "distill.objective.asynchronous={auto: true}",
        "distill.objective.max_start_epoch=2",
    ]
    here, images = run_alone(*ways)
    parts = group(2).run(distil, there.url, [*ways, "distill.workers=2", f"distill.sharding={sharding}"])
    (wanted, facts, _), (found, facts_there, _) = result(here, ways), result(there, ways)
    assert facts_there["objective"] == facts["objective"]
    assert {len(starts) for starts in facts["objective"]["starts"].values()} == {2}
    torch.testing.assert_close(found["loss"], wanted["loss"], rtol=1e-4, atol=1e-4)
    (unit,) = units_of(experiment(*DISTILL, *ways), "distillation")
    start = read_rows(UnitReader(here, "distillation", unit.id), "start")["images"]
    assert relative(torch.cat(parts) - start, images - start) < 1e-4


@pytest.mark.parametrize("fixed", ["images", "texts"])
def test_ranks_keep_fixed_tensors(fixed: str, copy: Callable[[str], Store], group: Groups) -> None:
    """Fixed tensors stay bit-identical, and the others change as in one process."""
    here, there, rate = copy("here"), copy("there"), f"distill.lr_{fixed}=0"
    distil(SOLO, here.url, [rate])
    group(2).run(distil, there.url, [rate, "distill.workers=2"], 4)
    parts = group(2).run(distil, there.url, [rate, "distill.workers=2"])
    (wanted, facts, _), (found, facts_there, _) = result(here, [rate]), result(there, [rate])
    start = read_rows(UnitReader(there, "distillation", units_of(experiment(*DISTILL, rate), "distillation")[0].id), "start")
    assert facts_there["start"] == facts["start"]
    assert facts["start"]["fixed"] == [fixed]
    assert torch.equal(found[fixed], start[fixed])
    if fixed == "images":
        assert torch.equal(torch.cat(parts), start["images"])
    torch.testing.assert_close(found["loss"], wanted["loss"], rtol=1e-4, atol=1e-4)
    assert found["loss"].unique().numel() == 6


@pytest.mark.parametrize(("before", "after"), [(2, 3), (3, 1), (1, 2)])
def test_a_run_resumes_with_another_number_of_ranks(
    before: int, after: int, copy: Callable[[str], Store], alone: tuple[Store, Tensor], group: Groups
) -> None:
    broken = copy("broken")

    def go(world: int, stop_at: int | None) -> Tensor:
        if world == 1:
            return distil(SOLO, broken.url, [], stop_at)
        return torch.cat(group(world).run(distil, broken.url, [f"distill.workers={world}"], stop_at))

    go(before, 4)
    checkpoints = [key for key in broken.keys("units") if "/distillation/" in key and "/checkpoints/" in key]
    assert [int(key.rpartition("/")[2][:8]) for key in checkpoints] == [2, 4]
    assert_equal_runs(*alone, broken, go(after, None))


def test_a_damaged_row_file_makes_all_ranks_skip_the_checkpoint(
    copy: Callable[[str], Store], alone: tuple[Store, Tensor], group: Groups
) -> None:
    broken = copy("broken")
    group(2).run(distil, broken.url, ["distill.workers=2"], 4)
    (part,) = [key for key in broken.keys("units") if "checkpoint-00000004/rows-00002-of-00002" in key]
    broken.write(part, broken.read(part)[:-1] + b"?")
    parts = group(2).run(distil, broken.url, ["distill.workers=2"])
    assert_equal_runs(*alone, broken, torch.cat(parts))


def test_offloaded_shards_give_bit_identical_results(copy: Callable[[str], Store], group: Groups) -> None:
    base = ["distill.workers=2", "distill.outer_steps=2"]
    none, cpu, nvme = (
        torch.cat(group(2).run(distil, copy(offload).url, [*base, f"distill.objective.offload_snapshots={offload}"]))
        for offload in ("none", "cpu", "nvme")
    )
    assert torch.equal(cpu, none)
    assert torch.equal(nvme, none)


def test_checks_of_differences_resume_with_the_run(copy: Callable[[str], Store], group: Groups) -> None:
    """A run that is stopped after a check, before the next checkpoint, gives the same bits and figures as an uninterrupted
    one."""
    straight, broken = copy("straight"), copy("broken")
    base = ["distill.workers=2", "distill.objective.gradient=finite_difference", "distill.objective.check_every=2"]
    wanted = group(2).run(distil, straight.url, base)
    group(2).run(distil, broken.url, base, 2)
    found = group(2).run(distil, broken.url, base)
    assert torch.equal(torch.cat(found), torch.cat(wanted))
    checks = [result(store, base)[1]["objective"]["difference_check"] for store in (straight, broken)]
    assert checks[0] == checks[1]
    assert [step for step, _ in checks[0]["later"]] == [2, 4]
    assert all(0 < error < 0.05 for error in [checks[0]["error"], *(error for _, error in checks[0]["later"])])
