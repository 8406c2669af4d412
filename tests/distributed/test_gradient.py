"""The gradient of a student on several ranks compared with that of one process, with gloo, real DeepSpeed engines and FSDP2."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any

import pytest
import torch
from torch import Tensor

from vldd_dist.config.base import Sharding
from vldd_dist.config.sections.model import HeadSettings
from vldd_dist.distillation.objectives.trajectory_matching import TrajectoryMatching
from vldd_dist.distillation.objectives.trajectory_matching.distance import matching_loss
from vldd_dist.distillation.student.blending import Blend, Blending
from vldd_dist.distillation.student.sharded_unroller import ShardedUnroller
from vldd_dist.distillation.student.unroller import StudentUnroll
from vldd_dist.distillation.unroll import EpsilonChoice, Unroll, UnrollResult
from vldd_dist.models.losses.wbce import WeightedBCE
from vldd_dist.sharding.exchange import Exchange
from vldd_dist.sharding.ranks import Ranks, rows_of
from vldd_dist.testing.processes.group import Group
from vldd_dist.testing.unroll_cases import Case, ScaledInfoNCE, dual_encoder_case, flat, relative

VIT = {"model": "test_vit", "model_args": {"img_size": 32}}
STUDENTS: dict[str, dict[str, Any]] = {
    "nfnet": {},
    "nfnet with dropout in the head": {"dropout": True},
    "vit": VIT,
    "vit with checkpointing": {**VIT, "grad_checkpointing": True},
    "lora vit": {**VIT, "train": "lora"},
    "lora vit with checkpointing": {**VIT, "train": "lora", "grad_checkpointing": True},
    "relu": {"model": "test_resnet"},
    "a loss that learns": {"loss": ScaledInfoNCE()},
    "a low-rank similarity": {"loss": WeightedBCE(temperature=0.07, similarity={"rank": 2})},
    "a full similarity": {"loss": WeightedBCE(temperature=0.07, similarity="full")},
    "head only": {"train": "head", "head": HeadSettings(kind="linear")},
}
# (world size, sharding)
WAYS = (
    *((1, sharding) for sharding in ("none", "zero3", "fsdp")),
    *((2, sharding) for sharding in ("none", "zero1", "zero2", "zero3", "fsdp")),
    *((3, sharding) for sharding in ("none", "zero2", "zero3", "fsdp")),
)
Groups = Callable[[int], Group]


def unroller_of(
    ranks: Ranks, case: Case, total: int, sharding: Sharding, gradient: str, dropout: bool = False
) -> ShardedUnroller:
    settings = TrajectoryMatching(gradient=gradient, dropout=dropout)
    return ShardedUnroller(case.student.model, case.student.layout.loss, settings, None, ranks, sharding, total)


def student_unroll_of(unroller: ShardedUnroller, case: Case, total: int) -> StudentUnroll:
    """This rank's rows and shards."""
    cut, own = unroller.layout.cut, slice(*unroller.ranks.rows(total))
    batches = [[tensor[own] for tensor in batch] for batch in case.batches]
    start, target = cut(case.theta), cut(case.target)
    outer = partial(matching_loss, start=start, target=target, towers=unroller.towers, ranks=unroller.ranks)
    return StudentUnroll(Unroll(start, case.rates, batches, outer, unroller.towers, case.shared), 11, case.fixed)


def sharded_gradient(
    ranks: Ranks, student: str, sharding: Sharding, gradient: str, blend: Blend | None = None
) -> dict[str, Any]:
    """This rank's part of it."""
    case = case_of(student, gradient)
    total = len(case.batches[0][0])
    unroller = unroller_of(ranks, case, total, sharding, gradient, STUDENTS[student].get("dropout", False))
    student_unroll = replace(student_unroll_of(unroller, case, total), blend=blend)
    choice = unroller.check_differences(student_unroll, 1e-4) if gradient == "finite_difference" else None
    result = unroller.gradient(student_unroll, choice and choice.relative_epsilon)
    return {
        "rows": [[tensor.clone() for tensor in batch] for batch in result.batch_gradients],
        "rates": result.rate_gradients,
        "terms": result.terms,
        "shared": list(result.shared_gradients),
        "shard": sum(len(shard) for shard in student_unroll.unroll.theta),
        "choice": choice,
    }


def case_of(student: str, gradient: str) -> Case:
    """The test case. It has fewer steps for finite differences, which need many passes, each slow on an engine."""
    return dual_encoder_case(steps=2 if gradient == "finite_difference" else 3, **STUDENTS[student]).in_model_inputs()


@cache
def of_one_process(student: str, on_ranks: str, gradient: str, blend: Blend | None) -> tuple[Case, UnrollResult]:
    """The case of the gradient `on_ranks`, and its `gradient` in one process."""
    case = case_of(student, on_ranks)
    case.student = case.student.with_inputs(replace(case.student.step_inputs, blend=blend))
    return case, case.gradient(gradient)


@cache
def on_ranks(group: Group, student: str, sharding: Sharding, gradient: str, blend: Blend | None = None) -> list[dict[str, Any]]:
    """Each rank's part of the gradient, which is the same to the bit at every call."""
    return group.run(sharded_gradient, student, sharding, gradient, blend)


def compare(
    group: Group, student: str, sharding: Sharding, gradient: str, against: str, blend: Blend | None = None
) -> dict[str, float]:
    """Relative errors of the group's gradients."""
    parts = on_ranks(group, student, sharding, gradient, blend)
    case, wanted = of_one_process(student, gradient, against, blend)
    steps = range(len(case.batches))
    width = range(len(case.batches[0]) - len(case.fixed))
    joined = [torch.cat([part["rows"][step][k] for part in parts]).flatten() for step in steps for k in width]
    for part in parts:
        assert torch.equal(part["rates"], parts[0]["rates"])
        # FSDP divides tensors by rows, and in a small network a single row is a considerable part.
        uneven = sum(value[:1].numel() for value in case.theta) if sharding == "fsdp" else len(case.theta)
        assert part["shard"] <= -(-case.student.view.count // group.world_size) + uneven
    assert sum(part["shard"] for part in parts) == case.student.view.count
    return {
        "pairs": relative(torch.cat(joined), flat(wanted)),
        "rates": relative(parts[0]["rates"], wanted.rate_gradients),
        "shared": max((relative(*both) for both in zip(parts[0]["shared"], wanted.shared_gradients, strict=True)), default=0.0),
        "terms": relative(parts[0]["terms"], wanted.terms),
        "choice": parts[0]["choice"].error if parts[0]["choice"] else 0.0,
    }


@pytest.mark.parametrize(
    ("student", "world", "sharding"),
    [
        # A smooth and a kinked network with every number of ranks and every sharding; the others with some.
        *((student, *ranks) for student in ("nfnet", "relu") for ranks in WAYS if student == "nfnet" or ranks[1] != "fsdp"),
        *(
            (student, *ranks)
            for student in STUDENTS
            if student not in ("nfnet", "relu", "head only")
            for ranks in ((3, "zero2"), (2, "zero3"))
        ),
        *((student, 3, "fsdp") for student in ("relu", "vit with checkpointing", "lora vit")),
    ],
)
def test_exact_on_ranks_is_the_full_gradient(group: Groups, student: str, sharding: Sharding, world: int) -> None:
    """The relative error is below 1e-5 in fp32, also for networks with kinks."""
    errors = compare(group(world), student, sharding, "exact", "full")
    assert max(errors["pairs"], errors["rates"], errors["terms"], errors["shared"]) < 1e-5, errors


@pytest.mark.parametrize(
    ("student", "world", "sharding"),
    [
        *(("nfnet", *ranks) for ranks in ((1, "zero3"), (2, "none"), (2, "zero3"), (3, "fsdp"))),
        *(("vit with checkpointing", 2, sharding) for sharding in ("none", "zero3", "fsdp")),
        ("lora vit", 2, "none"),
        *((student, 2, "none") for student in ("a loss that learns", "a low-rank similarity", "a full similarity")),
    ],
)
def test_differences_on_ranks_are_close_to_the_full_gradient(
    group: Groups, student: str, sharding: Sharding, world: int
) -> None:
    """All tensors are sharded, and no second derivative is computed. The check against `exact` runs first and must not change
    the result."""
    errors = compare(group(world), student, sharding, "finite_difference", "full")
    assert errors["pairs"] < 1.5e-3, errors
    assert max(errors["rates"], errors["shared"]) < 1e-3, errors
    assert 0 < errors["choice"] < 1.5e-3, errors


@pytest.mark.parametrize("gradient", ["exact", "finite_difference"])
@pytest.mark.parametrize("sharding", ["none", "zero3", "fsdp"])
def test_checkpointing_on_ranks_changes_no_bit(group: Groups, sharding: Sharding, gradient: str) -> None:
    plain, recomputing = (on_ranks(group(2), student, sharding, gradient) for student in ("vit", "vit with checkpointing"))
    for one, other in zip(plain, recomputing, strict=True):
        assert torch.equal(one["rates"], other["rates"])
        for batch, others in zip(one["rows"], other["rows"], strict=True):
            assert all(torch.equal(a, b) for a, b in zip(batch, others, strict=True))


def checked(ranks: Ranks, student: str, sharding: Sharding, ways: list[tuple[float | None, bool]]) -> list[EpsilonChoice]:
    """One check for each (known step, whether second derivatives fit on the last rank)."""
    case = dual_encoder_case(steps=2, **STUDENTS[student]).in_model_inputs()
    total = len(case.batches[0][0])
    unroller = unroller_of(ranks, case, total, sharding, "finite_difference")
    student_unroll, found = student_unroll_of(unroller, case, total), []
    for known, fits in ways:
        unroller._exact_fits = lambda fits=fits: fits or ranks.rank < ranks.world_size - 1  # type: ignore[misc, method-assign]
        found.append(unroller.check_differences(student_unroll, known))
    return found


def test_ranks_check_differences_together(group: Groups) -> None:
    """The check compares whole unrolls, and all ranks get the same error. If second derivatives do not fit on one of the ranks,
    all ranks compare with another epsilon instead."""
    ways = [(None, True), (1e-4, True), (1e-4, False)]
    found = group(2).run(checked, "nfnet", "none", ways)
    assert found[0] == found[1]
    best, known, elsewhere = found[0]
    assert 0 < best.error <= known.error < 0.01
    assert 0 < elsewhere.error < 0.01
    assert (known.relative_epsilon, elsewhere.relative_epsilon) == (1e-4, 1e-4)
    assert [choice.against for choice in found[0]] == ["exact", "exact", "another epsilon"]


def test_ranks_find_that_differences_are_too_inaccurate(group: Groups) -> None:
    found = group(2).run(checked, "relu", "none", [(1e-3, True), (1e-3, False)])
    assert found[0] == found[1]
    assert all(choice.error > 0.05 for choice in found[0])


@pytest.mark.parametrize("world", [2, 3])
def test_tesla_and_feature_space_on_ranks(group: Groups, world: int) -> None:
    assert compare(group(world), "vit", "none", "tesla", "tesla")["pairs"] < 1e-5
    assert compare(group(world), "head only", "none", "exact", "full")["pairs"] < 1e-5


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_blend_rows_of_each_other(group: Groups, world: int) -> None:
    """The result equals that of one process with all rows."""
    blend = Blending().of_step(seed=5)
    for gradient, tolerance in (("exact", 1e-5), ("finite_difference", 1.5e-3)):
        errors = compare(group(world), "head only", "none", gradient, "full", blend)
        assert max(errors["pairs"], errors["rates"], errors["terms"]) < tolerance, errors


def double_backward_through_the_engine(ranks: Ranks, sharding: Sharding) -> str:
    """The images' gradient differentiated again, through the engine. Returns whether this works, gives a wrong result, or
    fails."""
    from vldd_dist.models.losses.infonce import InfoNCE
    from vldd_dist.models.parameters import ParameterView
    from vldd_dist.sharding.engines.sharded_model import shard_model

    case = dual_encoder_case(**STUDENTS["vit"])
    view = ParameterView(case.student.model)
    engine = shard_model(case.student.model, torch.optim.SGD(view.parameters, lr=1.0), sharding, ranks)
    images, texts = (tensor.clone().requires_grad_() for tensor in case.batches[0])
    try:
        loss = InfoNCE()(*engine(images, texts))
        (gradient,) = torch.autograd.grad(loss, images, create_graph=True)
        (product,) = torch.autograd.grad(gradient.square().sum(), images)
    except RuntimeError as error:
        return f"fails: {error}"
    # Compared with the same product in one process.
    reference = dual_encoder_case(**STUDENTS["vit"]).student
    inputs, embeddings = (tensor.clone().requires_grad_() for tensor in case.batches[0])
    (right,) = torch.autograd.grad(reference.loss(reference.view.read(), [inputs, embeddings], 0), inputs, create_graph=True)
    (wanted,) = torch.autograd.grad(right.square().sum(), inputs)
    return "works" if relative(product, wanted) < 1e-4 else "is wrong"


@pytest.mark.parametrize("sharding", ["zero3", "fsdp"])
def test_double_backward_through_an_engine_fails(sharding: Sharding) -> None:
    """This is why `ShardedDoubleBackward` computes on a skeleton. In a group of its own, because an engine cannot be used
    afterwards."""
    alone = Group(1)
    try:
        (found,) = alone.run(double_backward_through_the_engine, sharding)
    finally:
        alone.close()
    assert found != "works", "then ShardedDoubleBackward need not gather parameters"


def exchanged(ranks: Ranks, total: int) -> tuple[Tensor, Tensor, Tensor]:
    rows = torch.arange(total, dtype=torch.float32)[:, None] * torch.tensor([1.0, 10.0])
    start, stop = ranks.rows(total)
    wanted = [torch.tensor([0, 3, total - 1]) if rank == 0 else torch.tensor([2, 3]) for rank in range(ranks.world_size)]
    exchange = Exchange(ranks, total, wanted)
    used = exchange.to_users(rows[start:stop])
    owned, sums = exchange.to_owners(torch.ones_like(used) * (ranks.rank + 1))
    return used, owned + start, sums


@pytest.mark.parametrize("world", [1, 2, 3])
def test_rows_travel_to_their_users_and_gradients_back(group: Groups, world: int) -> None:
    found = group(world).run(exchanged, 7)
    assert found[0][0].tolist() == [[0, 0], [3, 30], [6, 60]]
    for used, _, _ in found[1:]:
        assert used.tolist() == [[2, 20], [3, 30]]
    sums = {int(row): float(value[0]) for _, rows, values in found for row, value in zip(rows, values, strict=True)}
    others = sum(range(2, world + 1))
    assert sums == {0: 1, 3: 1 + others, 6: 1} | ({2: others} if world > 1 else {})
    bounds = [rows_of(rank, world, 7) for rank in range(world)]
    for (_, rows, _), (start, stop) in zip(found, bounds, strict=True):
        assert all(start <= int(row) < stop for row in rows)
