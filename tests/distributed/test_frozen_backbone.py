"""An outer step with a frozen backbone on several ranks, compared with the backbone itself on one."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from vldd_dist.config.base import Sharding
from vldd_dist.config.sections.model import HeadSettings
from vldd_dist.distillation.batch_exchange import BatchExchange
from vldd_dist.distillation.objectives.trajectory_matching import TrajectoryMatching
from vldd_dist.distillation.objectives.trajectory_matching.distance import matching_loss
from vldd_dist.distillation.pairs import SyntheticPairs
from vldd_dist.distillation.student.sharded_unroller import ShardedUnroller
from vldd_dist.distillation.student.unroller import StudentUnroll
from vldd_dist.distillation.unroll import Unroll, scatter_to_pairs
from vldd_dist.models.image.frozen_backbone import CHUNK
from vldd_dist.sharding.ranks import Ranks
from vldd_dist.testing.processes.group import Group
from vldd_dist.testing.unroll_cases import TEXT_DIM, Case, dual_encoder_case, relative

Groups = Callable[[int], Group]
# Of two ranks one has a row more than a chunk and the other a whole chunk. No step uses the last pair.
USED = 2 * CHUNK + 1
PAIRS = USED + 1
BATCHES = [torch.arange(USED)] * 2


def problem() -> tuple[Case, dict[str, Tensor]]:
    case = dual_encoder_case(model="test_byobnet", train="head", head=HeadSettings(kind="linear"))
    generator = torch.Generator().manual_seed(1)
    shapes = {"images": (PAIRS, 3, 32, 32), "texts": (PAIRS, TEXT_DIM)}
    return case, {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def outer_step(ranks: Ranks, sharding: Sharding, limit: int) -> dict[str, Any]:
    """This rank's pairs, their gradients, and the number of images that the tower encoded."""
    case, rows = problem()
    owned, model = slice(*ranks.rows(PAIRS)), case.student.model
    passed: list[int] = []
    unroller = ShardedUnroller(model, case.student.layout.loss, TrajectoryMatching(), None, ranks, sharding, USED)
    assert unroller.frozen_backbone is not None
    # The first image of a size is also encoded to choose the layout.
    unroller.frozen_backbone.features(rows["images"][:1])
    unroller.frozen_backbone.backbone.register_forward_hook(lambda _, given, __: passed.append(len(given[0])))
    pairs = SyntheticPairs({name: tensor[owned] for name, tensor in rows.items()}, {})
    exchange = BatchExchange(ranks, unroller.frozen_backbone, pairs, PAIRS, BATCHES, limit)
    start, target = unroller.layout.cut(case.theta), unroller.layout.cut(case.target)
    outer = partial(matching_loss, start=start, target=target, towers=unroller.towers, ranks=ranks)
    student_unroll = StudentUnroll(Unroll(start, case.rates, exchange.batches, outer, unroller.towers), 11)
    found, gradients = exchange.gradients(unroller.gradient(student_unroll).batch_gradients)
    return {"rows": found + owned.start, "passed": sum(passed), "used": len(exchange.own.used), **gradients}


def by_the_backbone() -> dict[str, Tensor]:
    """Gradients of all used pairs: one graph from the pixels, no tower."""
    case, rows = problem()
    leaf = rows["images"][:USED].requires_grad_()
    features = case.student.model.image_backbone(leaf)
    case.batches = [[features.detach(), rows["texts"][:USED]] for _ in BATCHES]
    of_features, of_texts = scatter_to_pairs(case.gradient("exact").batch_gradients, BATCHES, USED)
    return {"images": torch.autograd.grad(features, leaf, of_features)[0], "texts": of_texts}


@pytest.mark.parametrize(
    ("world", "sharding", "limit"),
    [
        (1, "none", 1 << 30),
        (2, "none", 0),
        (2, "none", 1 << 30),
        (2, "zero1", 1 << 30),
        (2, "zero3", 1 << 30),
        (3, "zero3", 0),
        (3, "fsdp", 0),
    ],
)
def test_a_step_is_that_of_the_backbone_and_passes_used_images_once(
    world: int, sharding: Sharding, limit: int, group: Groups
) -> None:
    """Also with sharded parameters, and with ranks whose images form different numbers of chunks."""
    parts, wanted = group(world).run(outer_step, sharding, limit), by_the_backbone()
    assert torch.cat([part["rows"] for part in parts]).tolist() == list(range(USED))
    for name in ("images", "texts"):
        assert relative(torch.cat([part[name] for part in parts]), wanted[name]) < 1e-5
    assert [part["passed"] for part in parts] == [part["used"] * (1 if limit else 2) for part in parts]
    assert sum(part["used"] for part in parts) == USED
