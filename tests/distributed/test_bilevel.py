"""The bilevel objective on several ranks, replicated and sharded, compared with one process."""

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.distributed.feature_runs import found_gradient, start, with_inputs
from tests.distributed.stopping import execute_until
from vldd_dist.artifacts.tensor_files import tensors
from vldd_dist.artifacts.units import UnitReader
from vldd_dist.config.base import Sharding
from vldd_dist.distillation.objectives.outer_problem import OuterGradient
from vldd_dist.distillation.student import make_unroller
from vldd_dist.pipeline.context import read_rows
from vldd_dist.sharding.ranks import SOLO, Ranks
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny_experiment import experiment, units_of
from vldd_dist.testing.processes.group import Group
from vldd_dist.testing.unroll_cases import relative

# Five pairs in minibatches of four, and seven real pairs, so that the ranks' rows differ in number. Noise, a teacher, dropout
# on the real pairs, a learned temperature, and at odd outer steps inner steps that are not differentiated.
OVERRIDES = [
    "distill.pairs=[5]",
    "distill.batch_size=4",
    "distill.objective={name: bilevel, real_batch_size: 7, inner_steps: 3, skipped_steps: 4}",
    # Rounding errors grow with the rates.
    "distill.objective.inner_lr_image=0.02",
    "distill.objective.inner_lr_text=0.02",
    "experts.count=2",
    "model.loss.learn_temperature=true",
    "model.text.head={kind: projection, dropout: 0.2}",
]
HEADS = ["model.image.train=head", "model.image.head={kind: projection, dropout: 0.2}", "model.joint_dim=16"]
# By the trained part of the image tower.
TRAINED = {"full": OVERRIDES, "head": [*OVERRIDES, *HEADS]}
STEP = 3
# (trained part of the image tower, world size, sharding). Sharding is rejected if only heads are trained.
WAYS = [
    *(("head", world, "none") for world in (2, 3)),
    *(("full", world, "none") for world in (2, 3)),
    ("full", 1, "zero3"),
    *(("full", 2, sharding) for sharding in ("zero2", "zero3", "fsdp")),
]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Store]:
    """The trained part of the image tower -> a prepared store."""
    return {train: with_inputs(Store(str(tmp_path_factory.mktemp(train))), overrides) for train, overrides in TRAINED.items()}


@pytest.fixture(scope="module")
def of_one_process(prepared: dict[str, Store]) -> dict[str, OuterGradient]:
    """The trained part of the image tower -> the gradient in one process."""
    return {train: found_gradient(SOLO, prepared[train].url, overrides, STEP) for train, overrides in TRAINED.items()}


@cache
def of_ranks(group: Group, url: str, train: str, sharding: Sharding) -> list[OuterGradient]:
    """Each rank's part of the gradient."""
    return group.run(found_gradient, url, [*TRAINED[train], f"distill.sharding={sharding}"], STEP)


@pytest.mark.parametrize(("train", "world_size", "sharding"), WAYS)
def test_ranks_find_the_gradient_of_one_process(
    train: str,
    world_size: int,
    sharding: Sharding,
    prepared: dict[str, Store],
    of_one_process: dict[str, OuterGradient],
    group: Callable[[int], Group],
) -> None:
    wanted, parts = of_one_process[train], of_ranks(group(world_size), prepared[train].url, train, sharding)
    assert torch.cat([part.rows for part in parts]).tolist() == wanted.rows.tolist()
    for part in parts:
        assert part.terms["real_pairs"] == pytest.approx(wanted.terms["real_pairs"], rel=1e-5)
        assert set(part.shared_gradients) == {"log_rates", "log_temperature"}
        for name, gradient in wanted.shared_gradients.items():
            assert relative(part.shared_gradients[name], gradient) < 1e-3, name
    for name, gradient in wanted.row_gradients.items():
        assert float(gradient.norm()) > 0
        assert relative(torch.cat([part.row_gradients[name] for part in parts]), gradient) < 1e-3, name


# SGD, because Adam's first step is only the sign of the gradient; at rates that move the pairs by more than rounding.
RUN = [
    *OVERRIDES,
    "distill.outer_steps=2",
    "distill.validate_every=1",
    "distill.checkpoint_every=2",
    "distill.optimiser=sgd",
    "distill.lr_images=10",
    "distill.lr_texts=10",
]


def distil(ranks: Ranks, url: str, sharding: Sharding) -> dict[str, Tensor]:
    """A whole run with validation; returns this rank's rows at its end."""
    overrides = [*RUN, f"distill.workers={ranks.world_size}", f"distill.sharding={sharding}"]
    (unit,) = units_of(experiment(*overrides), "distillation")
    written = execute_until(ranks, url, unit, None)
    (rows,) = [data for name, data in written.items() if name.startswith("rows")]
    return tensors.decode(rows, "rows")


def test_a_run_on_an_engine_ends_where_one_process_does(
    prepared: dict[str, Store], tmp_path: Path, group: Callable[[int], Group]
) -> None:
    for name in ("alone", "together"):
        shutil.copytree(prepared["full"].root, tmp_path / name)
    wanted = distil(SOLO, str(tmp_path / "alone"), "none")
    parts = group(2).run(distil, str(tmp_path / "together"), "zero3")
    (unit,) = units_of(experiment(*RUN), "distillation")
    start = read_rows(UnitReader(Store(str(tmp_path / "alone")), "distillation", unit.id), "start")
    for name in ("images", "texts"):
        way = wanted[f"pairs/{name}"] - start[name]
        assert float(way.norm()) > 1e-3, name
        assert relative(torch.cat([part[f"pairs/{name}"] for part in parts]) - start[name], way) < 1e-3, name


LORA = ["model.image.model=test_vit", "model.image.model_args={img_size: 32}", "model.image.train=lora"]


def shards_of_start(ranks: Ranks, url: str, sharding: Sharding, seed: int, *overrides: str) -> list[Tensor]:
    """This rank's shards of a student's start; the whole tensors, flattened, in one process."""
    _, inputs, _ = start(ranks, url, [*OVERRIDES, *overrides])
    objective = inputs.settings.objective
    unroller = make_unroller(inputs.model, inputs.loss, objective, None, ranks, sharding, 4)
    return [shard.flatten().clone() for shard in unroller.fresh_starts()(seed)]


@pytest.mark.parametrize("sharding", ["none", "zero3", "fsdp"])
@pytest.mark.parametrize("overrides", [LORA, []], ids=["adapters", "backbone"])
def test_ranks_have_the_shards_of_one_start(
    overrides: list[str], sharding: Sharding, prepared: dict[str, Store], group: Callable[[int], Group]
) -> None:
    whole = shards_of_start(SOLO, prepared["full"].url, "none", 1, *overrides)
    parts = group(2).run(shards_of_start, prepared["full"].url, sharding, 1, *overrides)
    for tensor, *shards in zip(whole, *parts, strict=True):
        assert torch.equal(torch.cat(shards), tensor)


def test_a_second_outer_step_starts_as_the_first(prepared: dict[str, Store], group: Callable[[int], Group]) -> None:
    """The parameters that a step leaves in the model are not the start of the next student."""
    alone = of_ranks(group(2), prepared["full"].url, "full", "none")
    after_others = group(2).run(found_gradient, prepared["full"].url, OVERRIDES, STEP, 2)
    for one, other in zip(alone, after_others, strict=True):
        assert relative(other.row_gradients["texts"], one.row_gradients["texts"]) < 1e-6
