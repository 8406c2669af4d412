"""The interface through which objectives use the student: a start and batches in, gradients out."""

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

# Pairs of an inner step in the small unroll on which finite differences are checked. Few, so that the memory of `exact` fits
# wherever the unroll fits, and the check costs less than an outer step.
CHECKED_PAIRS = 8


class UnrollSettings(Protocol):
    """The settings of an objective that say how its student is unrolled.

    Attributes:
        gradient: a name in `plugins.GRADIENTS`.
        difference: the scheme of finite differences, "central" or "forward".
        dropout: whether the student runs with its dropout.
    """

    @property
    def gradient(self) -> str: ...

    @property
    def difference(self) -> str: ...

    @property
    def dropout(self) -> bool: ...


@dataclass(frozen=True)
class Segment:
    """What one outer step unrolls: the student's start, the batches of its steps, and the outer loss of its end.

    Attributes:
        start: theta_0, the student's parameters or this rank's shards of them.
        outer: theta_T, in the same form -> differentiable terms (n,) of the outer loss, which is their sum.
        rates: (2,) inner learning rates of the image and the text tower.
        batches: for each inner step this rank's rows: model inputs (b, ...), texts (b, D), the loss's row tensors (b, ...).
        shared: the loss's shared tensors.
        seed: seed of the dropout masks.
        fixed: positions in a batch of the tensors that are not learned and get no gradient.
        blend: mixing of the features in the student's steps; None: they are not mixed.
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
        """The same segment with only the first `pairs` rows of each batch."""
        return replace(self, batches=[[tensor[:pairs] for tensor in batch] for batch in self.batches])

    def learned_and_fixed(self) -> tuple[list[Params], list[Fixed]]:
        """For each batch its learned tensors, and its fixed ones."""
        parts = [without_fixed(batch, self.fixed) for batch in self.batches]
        return [learned for learned, _ in parts], [fixed for _, fixed in parts]


# Joint features of the images and texts of all rows, (B, d) each -> a scalar loss.
FeatureLoss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class RealRows:
    """Real pairs on which the outer loss measures the student.

    Attributes:
        inputs: model inputs (b, ...) of the images of this rank's `rows_to_compute`.
        texts: (b, D) text embeddings of the same rows.
        total: B, the number of rows over all ranks.
    """

    inputs: Tensor
    texts: Tensor
    total: int


class Unrolling(Protocol):
    """The student's unroll.

    Attributes:
        model: the student's model.
        tower: the frozen backbone, which turns images into model inputs and propagates gradients back to the pixels; None if
            the backbone is trained.
        part: the slices of a snapshot that this rank needs; None: everything.
        towers: for each parameter of the student 0 (image) or 1 (text).
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
        """The student's parameters, or this rank's shards of them, from the image and the text tower of a snapshot."""
        ...

    def fresh_starts(self) -> Callable[[int], Params]:
        """A function: seed -> the model's weights at the time of this call with newly drawn heads, in the form of `theta`."""
        ...

    def features(self, theta: Params, rows: RealRows) -> tuple[Tensor, Tensor]:
        """Joint features of the images and texts of all rows, (B, d) each, without dropout and without a graph."""
        ...

    def loss_of_rows(self, rows: RealRows, seed: int, loss: FeatureLoss) -> OuterLoss:
        """An outer loss that measures the student on some rows: theta_T -> (1,). The student runs with its dropout there, even
        if `UnrollSettings.dropout` is off for its steps.

        Args:
            seed: seed of the dropout masks.
        """
        ...

    def gradient(self, segment: Segment, relative_epsilon: float | None) -> UnrollResult:
        """The gradient of the outer loss with respect to the learned tensors of this rank's rows of the inner batches, the
        shared tensors and the rates.

        Args:
            relative_epsilon: epsilon of finite differences, see `Differences`.
        """
        ...

    def check_differences(self, segment: Segment, epsilon_in_use: float | None) -> EpsilonChoice:
        """Compare finite differences with `exact` over all inner steps, on a few pairs of each batch.

        Args:
            epsilon_in_use: the relative epsilon to check; None: choose the best of several.
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
