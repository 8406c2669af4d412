"""The student as objectives see it: where it starts and what it steps on in, gradients of the pairs out."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor

from vldd_dist.artifacts.trajectories import ShardSlices
from vldd_dist.distillation.student.blending import Blend
from vldd_dist.distillation.student.student import Fixed, without_fixed
from vldd_dist.distillation.unroll import PLAIN, EpsilonChoice, OuterLoss, Params, Sgd, UnrollResult
from vldd_dist.models.dual_encoder import DualEncoder
from vldd_dist.models.image.frozen_tower import FrozenTower

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


# Joint features of all rows, (B, d) each -> a scalar.
FeatureLoss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class RealRows:
    """Rows that the student is judged on.

    Attributes:
        inputs: model inputs (b, ...) of this rank's `rows_to_compute`.
        texts: (b, D), of the same.
        total: B, over all ranks.
    """

    inputs: Tensor
    texts: Tensor
    total: int


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

    def fresh_starts(self) -> Callable[[int], Params]:
        """From a seed to the model's weights as they are at this call, with heads drawn anew, in the form of `theta`."""
        ...

    def features(self, theta: Params, rows: RealRows) -> tuple[Tensor, Tensor]:
        """Joint features of all rows, (B, d) each, without dropout and without a graph."""
        ...

    def loss_of_rows(self, rows: RealRows, seed: int, loss: FeatureLoss) -> OuterLoss:
        """The outer loss of the student's end on some rows, a term (1,). The student runs with its dropout, whatever
        `UnrollSettings.dropout` says of its steps.

        Args:
            seed: of the dropout masks.
        """
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


@contextmanager
def in_mode(model: DualEncoder, *, training: bool) -> Iterator[None]:
    """Within the `with` block, the model is in training or in evaluation mode."""
    before = model.training
    model.train(training)
    try:
        yield
    finally:
        model.train(before)
