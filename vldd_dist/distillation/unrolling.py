"""The student as the outer loop sees it: snapshots in, gradients of the pairs out, on one process or on several ranks."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

import torch
from torch import Tensor

from vldd_dist.artifacts.trajectories import ShardSlices
from vldd_dist.config.distillation import DistillSettings
from vldd_dist.distillation.matching import matching_loss
from vldd_dist.distillation.sharded import ShardedDoubleBackward, ShardedFirstOrder
from vldd_dist.distillation.student import Student
from vldd_dist.distillation.unroll import (
    Differences,
    OnDisk,
    OnHost,
    Params,
    Shelf,
    StepChoice,
    StepDerivatives,
    UnrollResult,
    choose_step,
    inner_products,
    swept_gradient,
    unrolled_gradient,
)
from vldd_dist.errors import StoreError
from vldd_dist.models.attention import set_unfused_attention, unfused_attention
from vldd_dist.models.dual_encoder import DualEncoder
from vldd_dist.models.parameters import TOWERS, ParameterView
from vldd_dist.sharding.engine import shard_model
from vldd_dist.sharding.ranks import SOLO, Ranks
from vldd_dist.sharding.skeleton import Skeleton

# Pairs an inner step of the small unroll on which finite differences are checked: `exact` is to fit where the unroll fits, and
# the check is to cost less than an outer step.
CHECKED_PAIRS = 8


class Unrolling(Protocol):
    """Attributes:
    model: makes the pairs' model inputs, and carries gradients from there to the pixels.
    part: what this rank needs of a snapshot; none: everything.
    """

    @property
    def model(self) -> DualEncoder: ...

    @property
    def part(self) -> ShardSlices | None: ...

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

    def check_differences(
        self, start: Params, target: Params, rates: Tensor, batches: Sequence[Params], seed: int, known: float | None
    ) -> StepChoice:
        """Finite differences against `exact` over all inner steps, on a few pairs of each batch.

        Args:
            known: the relative step in use; none: the best of several is chosen.
        """
        ...


class LocalUnrolling:
    """One process, any of the four gradients."""

    part: ShardSlices | None = None

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
        return self._gradient(self.settings.gradient, start, target, rates, batches, seed, relative_step)

    def check_differences(
        self, start: Params, target: Params, rates: Tensor, batches: Sequence[Params], seed: int, known: float | None
    ) -> StepChoice:
        few = [[tensor[:CHECKED_PAIRS] for tensor in batch] for batch in batches]
        with unfused_attention(self.model):
            exact = self._gradient("exact", start, target, rates, few, seed)
        return choose_step(partial(self.gradient, start, target, rates, few, seed), exact, inner_products, known)

    def _gradient(
        self,
        name: str,
        start: Params,
        target: Params,
        rates: Tensor,
        batches: Sequence[Params],
        seed: int,
        relative_step: float | None = None,
    ) -> UnrollResult:
        def outer(theta: Params) -> Tensor:
            return matching_loss(theta, start, target, self.student.towers)

        self.student.seed = seed
        return unrolled_gradient(
            name,
            self.student,
            start,
            rates,
            batches,
            outer,
            self.settings.difference,
            relative_step=relative_step,
            shelf=self.shelf,
        )


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
        self.part: ShardSlices | None = {
            tower: {name: elements for name, owner, elements in owned if owner == tower} for tower in TOWERS
        }

    def theta(self, image: Mapping[str, Tensor], text: Mapping[str, Tensor]) -> Params:
        given, device = {**image, **text}, self.model.mean.device
        return tuple(given[name].to(device) for name in self.names)

    def gradient(
        self, start: Params, target: Params, rates: Tensor, batches: Sequence[Params], seed: int, relative_step: float | None
    ) -> UnrollResult:
        derivatives: StepDerivatives = self.exact
        if self.settings.gradient == "finite_difference":
            derivatives = Differences(self.first_order, self.settings.difference, relative_step)
        return self._swept(derivatives, start, target, rates, batches, seed)

    def check_differences(
        self, start: Params, target: Params, rates: Tensor, batches: Sequence[Params], seed: int, known: float | None
    ) -> StepChoice:
        gather_rows = self.model.gather_rows
        rows = min(
            max(CHECKED_PAIRS // self.ranks.world_size, 1), *self.ranks.all_gather(min(len(batch[0]) for batch in batches))
        )
        few = [[tensor[:rows] for tensor in batch] for batch in batches]
        self._gather_rows(self.ranks.rows_gatherer(rows * self.ranks.world_size))
        try:
            exact = (
                self._swept(self.exact, start, target, rates, few, seed) if self.ranks.all_agree(self._exact_fits()) else None
            )
            by_differences = partial(self.gradient, start, target, rates, few, seed)
            return choose_step(by_differences, exact, self.first_order.inner_products, known)
        finally:
            self._gather_rows(gather_rows)

    def _swept(
        self, derivatives: StepDerivatives, start: Params, target: Params, rates: Tensor, batches: Sequence[Params], seed: int
    ) -> UnrollResult:
        def outer(theta: Params) -> Tensor:
            return matching_loss(theta, start, target, self.towers, self.ranks)

        self.first_order.seed = seed
        update_adjoint = self.settings.gradient != "tesla"
        return swept_gradient(
            derivatives, self.towers, start, rates, batches, outer, update_adjoint=update_adjoint, shelf=self.shelf
        )

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
