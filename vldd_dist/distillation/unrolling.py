"""The student as the outer loop sees it: snapshots in, gradients of the pairs out, on one process or on several ranks."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

import torch
from torch import Tensor

from vldd_dist.distillation.matching import matching_loss
from vldd_dist.distillation.sharded import ShardedDoubleBackward, ShardedFirstOrder
from vldd_dist.distillation.student import Student
from vldd_dist.distillation.unroll import (
    Autograd,
    Differences,
    DoubleBackward,
    OnDisk,
    OnHost,
    Params,
    Shelf,
    StepChoice,
    StepDerivatives,
    UnrollResult,
    choose_step,
    swept_gradient,
    unrolled_gradient,
)
from vldd_dist.errors import StoreError
from vldd_dist.models.attention import set_unfused_attention, unfused_attention
from vldd_dist.models.dual_encoder import DualEncoder
from vldd_dist.models.parameters import TOWERS, ParameterView
from vldd_dist.settings import DistillSettings
from vldd_dist.sharding.engine import shard_model
from vldd_dist.sharding.ranks import SOLO, Ranks
from vldd_dist.sharding.skeleton import Skeleton
from vldd_dist.storage.trajectories import Part

# Pairs of the small step on which finite differences are checked: `exact` is to fit where the unroll fits.
CHECKED_PAIRS = 8


class Unrolling(Protocol):
    """Attributes:
    model: makes the pairs' model inputs, and carries gradients from there to the pixels.
    part: what this rank needs of a snapshot; none: everything.
    """

    @property
    def model(self) -> DualEncoder: ...

    @property
    def part(self) -> Part | None: ...

    def theta(self, image: Mapping[str, Tensor], text: Mapping[str, Tensor]) -> Params:
        """A snapshot's towers as the student's parameters, or this rank's shards of them."""
        ...

    def gradient(
        self, start: Params, target: Params, rates: Tensor, batches: Sequence[Params], seed: int, relative_step: float | None
    ) -> UnrollResult:
        """Of the matching loss, with respect to this rank's rows of the inner batches and to the rates.

        Args:
            batches: (model inputs (b, ...), texts (b, D)) an inner step.
            seed: of the dropout masks.
            relative_step: of finite differences.
        """
        ...

    def choose_step(self, start: Params, target: Params, rates: Tensor, batch: Params) -> StepChoice:
        """The step of finite differences, tried on one inner step along the adjoint there."""
        ...


class LocalUnrolling:
    """One process, any of the four gradients."""

    part: Part | None = None

    def __init__(self, model: DualEncoder, temperature: float, settings: DistillSettings, shelf: Shelf | None) -> None:
        self.model, self.settings, self.shelf = model, settings, shelf
        fused = settings.gradient == "finite_difference"
        self.student = Student(model, temperature, dropout=settings.dropout, fused_attention=fused)

    def theta(self, image: Mapping[str, Tensor], text: Mapping[str, Tensor]) -> Params:
        device = self.model.mean.device
        return tuple(tensor.to(device) for tensor in self.student.view.from_dicts(dict(image), dict(text)))

    def gradient(
        self, start: Params, target: Params, rates: Tensor, batches: Sequence[Params], seed: int, relative_step: float | None
    ) -> UnrollResult:
        def outer(theta: Params) -> Tensor:
            return matching_loss(theta, start, target, self.student.towers)

        self.student.seed = seed
        settings = self.settings
        return unrolled_gradient(
            settings.gradient,
            self.student,
            start,
            rates,
            batches,
            outer,
            settings.difference,
            relative_step=relative_step,
            shelf=self.shelf,
        )

    def choose_step(self, start: Params, target: Params, rates: Tensor, batch: Params) -> StepChoice:
        first_order, exact = Autograd(self.student), DoubleBackward(self.student)
        batch = [tensor[:CHECKED_PAIRS] for tensor in batch]
        with unfused_attention(self.model):
            gradient, _ = first_order.gradients(start, batch, 0, of_batch=False)
            adjoint = _adjoint_after_a_step(start, target, gradient, rates, self.student.towers)
            return choose_step(first_order, exact, start, batch, adjoint, self.settings.difference)


class ShardedUnrolling:
    """Several ranks, or DeepSpeed on one; `exact`, `finite_difference` or `tesla`.

    Args:
        model: the same on every rank; it is put on the ranks here.
        batch_size: pairs of an inner step, over all ranks.
    """

    def __init__(
        self,
        model: DualEncoder,
        temperature: float,
        settings: DistillSettings,
        shelf: Shelf | None,
        ranks: Ranks,
        batch_size: int,
    ) -> None:
        self.model, self.settings, self.shelf, self.ranks = model, settings, shelf, ranks
        model.train(settings.dropout)
        model.gather_rows = ranks.rows_gatherer(batch_size)
        view = ParameterView(model)
        self.towers = [TOWERS.index(tower) for tower in view.towers]
        self.names = view.names
        skeleton = Skeleton(model)
        set_unfused_attention(skeleton.model)
        # The outer loop writes the parameters; the engine's own steps are never taken.
        sharded = shard_model(model, torch.optim.SGD(view.parameters, lr=1.0), settings.zero_stage, ranks)
        self.layout = sharded.layout
        self.first_order = ShardedFirstOrder(sharded, temperature, ranks)
        self.exact = ShardedDoubleBackward(self.first_order, skeleton)
        owned = list(zip(view.names, view.towers, self.layout.own, strict=True))
        self.part: Part | None = {
            tower: {name: elements for name, owner, elements in owned if owner == tower} for tower in TOWERS
        }

    def theta(self, image: Mapping[str, Tensor], text: Mapping[str, Tensor]) -> Params:
        given, device = {**image, **text}, self.model.mean.device
        return tuple(given[name].to(device) for name in self.names)

    def gradient(
        self, start: Params, target: Params, rates: Tensor, batches: Sequence[Params], seed: int, relative_step: float | None
    ) -> UnrollResult:
        def outer(theta: Params) -> Tensor:
            return matching_loss(theta, start, target, self.towers, self.ranks)

        self.first_order.seed = seed
        settings = self.settings
        derivatives: StepDerivatives = self.exact
        if settings.gradient == "finite_difference":
            derivatives = Differences(self.first_order, settings.difference, relative_step)
        update_adjoint = settings.gradient != "tesla"
        return swept_gradient(
            derivatives, self.towers, start, rates, batches, outer, update_adjoint=update_adjoint, shelf=self.shelf
        )

    def choose_step(self, start: Params, target: Params, rates: Tensor, batch: Params) -> StepChoice:
        gather_rows = self.model.gather_rows
        rows = min(max(CHECKED_PAIRS // self.ranks.world, 1), *self.ranks.gather(len(batch[0])))
        batch = [tensor[:rows] for tensor in batch]
        self._gather_rows(self.ranks.rows_gatherer(rows * self.ranks.world))
        try:
            gradient, _ = self.first_order.gradients(start, batch, 0, of_batch=False)
            adjoint = _adjoint_after_a_step(start, target, gradient, rates, self.towers)
            exact = self.exact if self.ranks.agree(self._exact_fits()) else None
            return choose_step(self.first_order, exact, start, batch, adjoint, self.settings.difference)
        finally:
            self._gather_rows(gather_rows)

    def _gather_rows(self, gather_rows: Callable[[Tensor], Tensor]) -> None:
        self.model.gather_rows = gather_rows
        self.exact.skeleton.model.gather_rows = gather_rows

    def _exact_fits(self) -> bool:
        """Whole theta, v, gradient and products, and their like as a graph, beside what this rank holds already."""
        device = self.model.mean.device
        if device.type != "cuda":
            return True
        free, _ = torch.cuda.mem_get_info(device)
        whole = sum(shape.numel() for shape in self.layout.shapes) * torch.float32.itemsize
        return 8 * whole < free


class SnapshotDisk(OnDisk):
    """`OnDisk` whose failures say what to do."""

    def push(self, tensors: Params) -> None:
        try:
            super().push(tensors)
        except OSError as error:
            raise StoreError(
                f"distill.offload_snapshots: nvme: {self.folder}: {error.strerror or error}: name a folder with room by "
                "VLDD_SCRATCH_DIR"
            ) from None


@contextmanager
def shelf_for(offload: str) -> Iterator[Shelf | None]:
    """What `distill.offload_snapshots` names; a folder on disk is gone afterwards."""
    if offload != "nvme":
        yield OnHost() if offload == "cpu" else None
        return
    scratch = os.environ.get("VLDD_SCRATCH_DIR")
    if scratch and not Path(scratch).is_dir():
        raise StoreError(f"VLDD_SCRATCH_DIR: {scratch}: no such folder: make it or name another")
    with TemporaryDirectory(prefix="vldd-snapshots-", dir=scratch) as folder:
        yield SnapshotDisk(Path(folder))


def make_unrolling(
    model: DualEncoder, temperature: float, settings: DistillSettings, shelf: Shelf | None, ranks: Ranks, batch_size: int
) -> Unrolling:
    """As the settings and the number of ranks ask."""
    model.bf16_backbone = settings.precision == "bf16"
    if ranks is SOLO and settings.zero_stage == 0:
        return LocalUnrolling(model, temperature, settings, shelf)
    return ShardedUnrolling(model, temperature, settings, shelf, ranks, batch_size)


def _adjoint_after_a_step(start: Params, target: Params, gradient: Params, rates: Tensor, towers: Sequence[int]) -> Params:
    """The direction of lam_1: from the expert's end to the student after one step. Differences are bent most along the
    gradient, and a random direction would not show it."""
    owned = zip(start, target, gradient, towers, strict=True)
    return [begin - float(rates[tower]) * g - goal for begin, goal, g, tower in owned]
