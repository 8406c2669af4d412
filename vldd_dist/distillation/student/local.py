"""The student's unroll in one process."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from vldd_dist.artifacts.trajectories import ShardSlices
from vldd_dist.distillation.student.student import Student
from vldd_dist.distillation.student.unrolling import (
    CHECKED_PAIRS,
    FeatureLoss,
    RealRows,
    Segment,
    UnrollSettings,
    in_mode,
)
from vldd_dist.distillation.unroll import (
    EpsilonChoice,
    Gradient,
    OuterLoss,
    Params,
    SnapshotStack,
    UnrollResult,
    choose_epsilon,
    inner_products,
    unrolled_gradient,
)
from vldd_dist.distillation.unroll.protocol import replayed_randomness
from vldd_dist.models.attention import unfused_attention
from vldd_dist.models.dual_encoder import DualEncoder, redraw_heads
from vldd_dist.models.inputs import frozen_tower
from vldd_dist.models.losses import Loss
from vldd_dist.models.parameters import call
from vldd_dist.plugins import GRADIENTS


class LocalUnrolling:
    """One process, any gradient."""

    part: ShardSlices | None = None

    def __init__(self, model: DualEncoder, loss: Loss, settings: UnrollSettings, snapshots: SnapshotStack | None) -> None:
        self.model, self.settings, self.snapshots = model, settings, snapshots
        # Before the student, which gives up fused attention for a second derivative that the tower does not take.
        self.tower = frozen_tower(model)
        self.way: Gradient = GRADIENTS.load(settings.gradient)
        self.student = Student(model, loss, dropout=settings.dropout, fused_attention=self.way.first_order_only)
        self.towers: Sequence[int] = self.student.towers

    def theta(self, image: Mapping[str, Tensor], text: Mapping[str, Tensor]) -> Params:
        device = self.model.mean.device
        return tuple(tensor.to(device) for tensor in self.student.view.from_dicts(dict(image), dict(text)))

    def fresh_starts(self) -> Callable[[int], Params]:
        # The student's steps leave the model's own parameters as they are.
        def start(seed: int) -> Params:
            redraw_heads(self.model.heads, seed)
            return self.student.view.read()

        return start

    @torch.no_grad()
    def features(self, theta: Params, rows: RealRows) -> tuple[Tensor, Tensor]:
        with in_mode(self.model, training=False):
            return call(self.model, self.student.view, theta, rows.inputs, rows.texts)

    def loss_of_rows(self, rows: RealRows, seed: int, loss: FeatureLoss) -> OuterLoss:
        def outer(theta: Params) -> Tensor:
            with in_mode(self.model, training=True), replayed_randomness(seed, 0, rows.inputs.device):
                return loss(*call(self.model, self.student.view, theta, rows.inputs, rows.texts))[None]

        return outer

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
            snapshots=self.snapshots,
            sgd=segment.sgd,
        )
