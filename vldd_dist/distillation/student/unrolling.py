"""The student as trajectory matching sees it: snapshots in, gradients of the pairs out, on one process or on several ranks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from vldd_dist.artifacts.trajectories import ShardSlices
from vldd_dist.distillation.student.blending import Blend
from vldd_dist.distillation.student.sharded import ShardedDoubleBackward, ShardedFirstOrder
from vldd_dist.distillation.student.student import Fixed, Student, without_fixed
from vldd_dist.distillation.unroll import (
    PLAIN,
    EpsilonChoice,
    FirstOrder,
    Gradient,
    OuterLoss,
    Params,
    Sgd,
    Shelf,
    StepDerivatives,
    UnrollResult,
    choose_epsilon,
    inner_products,
    swept_gradient,
    unrolled_gradient,
)
from vldd_dist.models.attention import set_unfused_attention, unfused_attention
from vldd_dist.models.dual_encoder import DualEncoder
from vldd_dist.models.frozen_tower import FrozenTower, frozen_tower
from vldd_dist.models.losses import Loss
from vldd_dist.models.parameters import TOWERS, ParameterView
from vldd_dist.plugins import GRADIENTS
from vldd_dist.sharding.engine import shard_model
from vldd_dist.sharding.ranks import SOLO, Ranks
from vldd_dist.sharding.skeleton import Skeleton

# Pairs an inner step of the small unroll on which finite differences are checked: `exact` is to fit where the unroll fits, and
# the check is to cost less than an outer step.
CHECKED_PAIRS = 8


class UnrollSettings(Protocol):
    """How a student is unrolled: settings of the objective.

    Attributes:
        gradient: a name in `plugins.GRADIENTS`.
        difference: central or forward, the scheme of finite differences.
        dropout: run the student with its dropout.
    """

    @property
    def gradient(self) -> str: ...

    @property
    def difference(self) -> str: ...

    @property
    def dropout(self) -> bool: ...


@dataclass(frozen=True)
class Segment:
    """What one outer step unrolls: where the student starts, the batches of its steps, and the loss of where it ends.

    Attributes:
        start: where the student starts, as the student's parameters or this rank's shards of them.
        outer: the outer loss of its end, in the same form: terms (n,), differentiable, whose sum is the loss.
        rates: (2,) inner learning rates of the image and the text tower.
        batches: of each inner step this rank's rows: model inputs (b, ...), texts (b, D), the loss's row tensors.
        shared: the loss's shared tensors.
        seed: of the dropout masks.
        fixed: places in a batch of the tensors that are not learned, and get no gradient.
        blend: of the features in the student's steps; none: they are not mixed.
        sgd: the student's momentum and weight decay, and how many of its first steps are not differentiated.
    """

    start: Params
    outer: OuterLoss
    rates: Tensor
    batches: Sequence[Params]
    shared: Params
    seed: int
    fixed: frozenset[int] = frozenset()
    blend: Blend | None = None
    sgd: Sgd = PLAIN

    def of_few_pairs(self, pairs: int) -> "Segment":
        """With the first pairs of each batch alone."""
        return replace(self, batches=[[tensor[:pairs] for tensor in batch] for batch in self.batches])

    def parted(self) -> tuple[list[Params], list[Fixed]]:
        """Of each batch what is learned, and what is not."""
        parts = [without_fixed(batch, self.fixed) for batch in self.batches]
        return [learned for learned, _ in parts], [fixed for _, fixed in parts]


class Unrolling(Protocol):
    """Attributes:
    model: the student's.
    tower: of a frozen backbone: makes the pairs' model inputs, and carries gradients from there to the pixels.
    part: what this rank needs of a snapshot; none: everything.
    towers: of each of the student's parameters, 0 (image) or 1 (text).
    """

    @property
    def model(self) -> DualEncoder: ...

    @property
    def tower(self) -> FrozenTower | None: ...

    @property
    def part(self) -> ShardSlices | None: ...

    @property
    def towers(self) -> Sequence[int]: ...

    def theta(self, image: Mapping[str, Tensor], text: Mapping[str, Tensor]) -> Params:
        """A snapshot's towers as the student's parameters, or this rank's shards of them."""
        ...

    def gradient(self, segment: Segment, relative_epsilon: float | None) -> UnrollResult:
        """Of the outer loss, with respect to what is learned of this rank's rows of the inner batches, the shared tensors
        and the rates.

        Args:
            relative_epsilon: of finite differences.
        """
        ...

    def check_differences(self, segment: Segment, known: float | None) -> EpsilonChoice:
        """Finite differences against `exact` over all inner steps, on a few pairs of each batch.

        Args:
            known: the relative epsilon in use; none: the best of several is chosen.
        """
        ...


class LocalUnrolling:
    """One process, any gradient."""

    part: ShardSlices | None = None

    def __init__(self, model: DualEncoder, loss: Loss, settings: UnrollSettings, shelf: Shelf | None) -> None:
        self.model, self.settings, self.shelf = model, settings, shelf
        # Before the student, which gives up fused attention for a second derivative that the tower does not take.
        self.tower = frozen_tower(model)
        self.way: Gradient = GRADIENTS.load(settings.gradient)
        self.student = Student(model, loss, dropout=settings.dropout, fused_attention=self.way.first_order_only)
        self.towers: Sequence[int] = self.student.towers

    def theta(self, image: Mapping[str, Tensor], text: Mapping[str, Tensor]) -> Params:
        device = self.model.mean.device
        return tuple(tensor.to(device) for tensor in self.student.view.from_dicts(dict(image), dict(text)))

    def gradient(self, segment: Segment, relative_epsilon: float | None) -> UnrollResult:
        return self._gradient(self.way, segment, relative_epsilon)

    def check_differences(self, segment: Segment, known: float | None) -> EpsilonChoice:
        few = segment.of_few_pairs(CHECKED_PAIRS)
        with unfused_attention(self.model):
            exact = self._gradient(GRADIENTS.load("exact"), few)
        return choose_epsilon(partial(self.gradient, few), exact, inner_products, known)

    def _gradient(self, way: Gradient, segment: Segment, relative_epsilon: float | None = None) -> UnrollResult:
        self.student.seed, self.student.blend = segment.seed, segment.blend
        learned, self.student.fixed = segment.parted()
        return unrolled_gradient(
            way,
            self.student,
            segment.start,
            segment.rates,
            learned,
            segment.outer,
            self.settings.difference,
            shared=segment.shared,
            relative_epsilon=relative_epsilon,
            shelf=self.shelf,
            sgd=segment.sgd,
        )


class ShardedUnrolling:
    """Several ranks, or DeepSpeed on one; any gradient but `full`.

    Args:
        model: the same on every rank; it is put on the ranks here.
        batch_size: pairs of an inner step, over all ranks.
    """

    def __init__(
        self,
        model: DualEncoder,
        loss: Loss,
        settings: UnrollSettings,
        shelf: Shelf | None,
        ranks: Ranks,
        zero_stage: int,
        batch_size: int,
    ) -> None:
        self.model, self.settings, self.shelf, self.ranks = model, settings, shelf, ranks
        self.tower = frozen_tower(model)
        self.way: Gradient = GRADIENTS.load(settings.gradient)
        model.train(settings.dropout)
        model.gather_rows = ranks.rows_gatherer(batch_size)
        view = ParameterView(model)
        self.towers: Sequence[int] = [TOWERS.index(tower) for tower in view.towers]
        self.names = view.names
        self.skeleton = Skeleton(model)
        set_unfused_attention(self.skeleton.model)
        # The outer loop writes the parameters; the engine's own steps are never taken.
        sharded = shard_model(model, torch.optim.SGD(view.parameters, lr=1.0), zero_stage, ranks)
        self.layout = sharded.layout
        self.passes = ShardedFirstOrder(sharded, model, loss, ranks)
        owned = list(zip(view.names, view.towers, self.layout.own, strict=True))
        self.part: ShardSlices | None = {
            tower: {name: elements for name, owner, elements in owned if owner == tower} for tower in TOWERS
        }

    def first_order(self) -> FirstOrder:
        return self.passes

    def second_order(self) -> StepDerivatives:
        return ShardedDoubleBackward(self.passes, self.skeleton)

    def theta(self, image: Mapping[str, Tensor], text: Mapping[str, Tensor]) -> Params:
        given, device = {**image, **text}, self.model.mean.device
        return tuple(given[name].to(device) for name in self.names)

    def gradient(self, segment: Segment, relative_epsilon: float | None) -> UnrollResult:
        assert self.way.derivatives is not None, "one graph over all steps is for one process: refused with the description"
        return self._swept(self.way.derivatives(self, self.settings.difference, relative_epsilon), segment)

    def check_differences(self, segment: Segment, known: float | None) -> EpsilonChoice:
        gather_rows, world_size = self.model.gather_rows, self.ranks.world_size
        smallest = self.ranks.all_gather(min(len(batch[0]) for batch in segment.batches))
        rows = min(max(CHECKED_PAIRS // world_size, 1), *smallest)
        few = segment.of_few_pairs(rows)
        self._gather_rows(self.ranks.rows_gatherer(rows * world_size))
        try:
            exact = self._swept(self.second_order(), few) if self.ranks.all_agree(self._exact_fits()) else None
            return choose_epsilon(partial(self.gradient, few), exact, self.passes.inner_products, known)
        finally:
            self._gather_rows(gather_rows)

    def _swept(self, derivatives: StepDerivatives, segment: Segment) -> UnrollResult:
        self.passes.seed, self.passes.blend = segment.seed, segment.blend
        learned, self.passes.fixed = segment.parted()
        result = swept_gradient(
            derivatives,
            self.towers,
            segment.start,
            segment.rates,
            learned,
            segment.outer,
            segment.shared,
            update_adjoint=self.way.update_adjoint,
            shelf=self.shelf,
            sgd=segment.sgd,
        )
        # Each rank has the gradient of its part of the loss.
        return replace(result, shared=[self.ranks.all_reduce(part) for part in result.shared])

    def _gather_rows(self, gather_rows: Callable[[Tensor], Tensor]) -> None:
        self.model.gather_rows = gather_rows
        self.skeleton.model.gather_rows = gather_rows

    def _exact_fits(self) -> bool:
        """Whole theta, v, gradient and products, and their like as a graph, beside what this rank holds already."""
        device = self.model.mean.device
        if device.type != "cuda":
            return True
        free, _ = torch.cuda.mem_get_info(device)
        whole = sum(shape.numel() for shape in self.layout.shapes) * torch.float32.itemsize
        return 8 * whole < free


def make_unrolling(
    model: DualEncoder,
    loss: Loss,
    settings: UnrollSettings,
    shelf: Shelf | None,
    ranks: Ranks,
    zero_stage: int,
    batch_size: int,
) -> Unrolling:
    """As the settings and the number of ranks ask."""
    if ranks is SOLO and zero_stage == 0:
        return LocalUnrolling(model, loss, settings, shelf)
    return ShardedUnrolling(model, loss, settings, shelf, ranks, zero_stage, batch_size)
