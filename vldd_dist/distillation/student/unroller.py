"""The interface through which objectives use the student: a start and batches in, gradients out."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor

from vldd_dist.artifacts.tensor_files.trajectories import ShardSlices
from vldd_dist.distillation.real_data.real_rows import RealRows
from vldd_dist.distillation.student.blending import Blend
from vldd_dist.distillation.student.student import StepInputs, without_fixed
from vldd_dist.distillation.unroll import (
    DifferenceSettings,
    EpsilonChoice,
    Gradient,
    OuterLoss,
    SnapshotStack,
    Tensors,
    Unroll,
    UnrollResult,
)
from vldd_dist.models.dual_encoder import DualEncoder
from vldd_dist.models.inputs import frozen_backbone
from vldd_dist.models.parameters import ParameterView
from vldd_dist.plugins import GRADIENTS

# Pairs of an inner step in the small unroll on which finite differences are checked. Few, so that the memory of `exact` fits
# wherever the unroll fits, and the check costs less than an outer step.
CHECKED_PAIRS = 8


class UnrollSettings(Protocol):
    """The settings of an objective that say how its student is unrolled.

    Attributes:
        gradient: a name in `plugins.GRADIENTS`.
        dropout: whether the student runs with its dropout.
    """

    @property
    def gradient(self) -> str: ...

    @property
    def dropout(self) -> bool: ...

    def difference_scheme(self) -> str:
        """The scheme of finite differences, "central" or "forward"."""
        ...


@dataclass(frozen=True)
class StudentUnroll:
    """The unroll of one outer step, and how the student runs in it.

    Attributes:
        unroll: with several ranks theta, in every place, is this rank's shards of it, and a batch holds this rank's rows: model
            inputs (b, ...), texts (b, D), the loss's row tensors (b, ...), including those that are fixed. The rates are those
            of the image and the text tower; the shared tensors are the loss's.
        seed: seed of the dropout masks.
        fixed: positions in a batch of the tensors that are not learned and get no gradient.
        blend: mixing of the features in the student's steps; None: they are not mixed.
    """

    unroll: Unroll
    seed: int
    fixed: frozenset[int] = frozenset()
    blend: Blend | None = None

    def of_few_pairs(self, pairs: int) -> "StudentUnroll":
        """The same with only the first `pairs` rows of each batch."""
        batches = [[tensor[:pairs] for tensor in batch] for batch in self.unroll.batches]
        return replace(self, unroll=replace(self.unroll, batches=batches))

    def prepared(self) -> tuple[Unroll, StepInputs]:
        """The unroll with only the learned tensors of each batch, and what the student's steps take beside them."""
        divided = [without_fixed(batch, self.fixed) for batch in self.unroll.batches]
        step_inputs = StepInputs(self.seed, [fixed for _, fixed in divided], self.blend)
        return replace(self.unroll, batches=[learned for learned, _ in divided]), step_inputs


# Joint features of the images and texts of all rows, (B, d) each -> a scalar loss.
FeatureLoss = Callable[[Tensor, Tensor], Tensor]


class Unroller(ABC):
    """Takes and differentiates a student's steps.

    Args:
        snapshots: where it keeps the snapshots of an unroll; None: on the student's device.

    Attributes:
        frozen_backbone: turns images into model inputs and propagates gradients back to the pixels; None if the backbone is
            trained.
        snapshot_slices: the slices of a snapshot that this rank needs; None: everything.
        towers: for each parameter of the student 0 (image) or 1 (text).
    """

    snapshot_slices: ShardSlices | None = None

    def __init__(self, model: DualEncoder, settings: UnrollSettings, snapshots: SnapshotStack | None) -> None:
        self.model, self.settings, self.snapshots = model, settings, snapshots
        self.frozen_backbone = frozen_backbone(model)
        self.method: Gradient = GRADIENTS.load(settings.gradient)
        self.towers: Sequence[int] = ParameterView(model).towers

    @abstractmethod
    def theta(self, image: Mapping[str, Tensor], text: Mapping[str, Tensor]) -> Tensors:
        """The student's parameters, or this rank's shards of them, from the image and the text tower of a snapshot."""

    @abstractmethod
    def fresh_starts(self) -> Callable[[int], Tensors]:
        """A function: seed -> the model's weights at the time of this call with `FreshWeights` of the seed, in the form of
        `theta`."""

    @abstractmethod
    def features(self, theta: Tensors, rows: RealRows) -> tuple[Tensor, Tensor]:
        """Joint features of the images and texts of all rows, (B, d) each, without dropout and without a graph."""

    @abstractmethod
    def loss_of_rows(self, rows: RealRows, seed: int, loss: FeatureLoss) -> OuterLoss:
        """An outer loss that measures the student on some rows: theta_T -> (1,). The student runs with its dropout there, even
        if `UnrollSettings.dropout` is off for its steps.

        Args:
            seed: seed of the dropout masks.
        """

    def gradient(
        self, student_unroll: StudentUnroll, relative_epsilon: float | None = None, *, method: Gradient | None = None
    ) -> UnrollResult:
        """The gradient of the outer loss with respect to the learned tensors of this rank's rows of the inner batches, the
        shared tensors and the rates.

        Args:
            relative_epsilon: see `DifferenceSettings`.
            method: None: that of the settings.
        """
        unroll, step_inputs = student_unroll.prepared()
        differences = DifferenceSettings(self.settings.difference_scheme(), relative_epsilon)
        return self._differentiate(method or self.method, unroll, step_inputs, differences)

    @abstractmethod
    def check_differences(self, student_unroll: StudentUnroll, epsilon_in_use: float | None) -> EpsilonChoice:
        """Compare finite differences with `exact` over all inner steps, on a few pairs of each batch.

        Args:
            epsilon_in_use: the relative epsilon to check; None: choose the best of several.
        """

    @abstractmethod
    def _differentiate(
        self, method: Gradient, unroll: Unroll, step_inputs: StepInputs, differences: DifferenceSettings
    ) -> UnrollResult:
        """See `gradient`; the unroll has only the learned tensors of each batch."""


@contextmanager
def in_mode(model: DualEncoder, *, training: bool) -> Iterator[None]:
    """Within the `with` block, the model is in training or in evaluation mode."""
    # A switch visits all modules, also of a frozen backbone that takes no part.
    if model.training == training:
        yield
        return
    model.train(training)
    try:
        yield
    finally:
        model.train(not training)
