"""The student's unroll in one process."""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from vldd_dist.distillation.real_data.real_rows import RealRows
from vldd_dist.distillation.student.student import StepInputs, Student
from vldd_dist.distillation.student.unroller import (
    CHECKED_PAIRS,
    FeatureLoss,
    StudentUnroll,
    Unroller,
    UnrollSettings,
    in_mode,
)
from vldd_dist.distillation.unroll import (
    DifferenceSettings,
    EpsilonChoice,
    Gradient,
    OuterLoss,
    SnapshotStack,
    Tensors,
    Unroll,
    UnrollResult,
    choose_epsilon,
    inner_products,
    unrolled_gradient,
)
from vldd_dist.distillation.unroll.finite_difference import all_bits_of_fp32
from vldd_dist.distillation.unroll.protocol import replayed_randomness
from vldd_dist.models.attention import unfused_attention
from vldd_dist.models.dual_encoder import DualEncoder
from vldd_dist.models.fresh_weights import FreshWeights
from vldd_dist.models.losses import Loss
from vldd_dist.models.parameters import call
from vldd_dist.plugins import GRADIENTS


class LocalUnroller(Unroller):
    """An unroller in one process, for any gradient."""

    def __init__(self, model: DualEncoder, loss: Loss, settings: UnrollSettings, snapshots: SnapshotStack | None) -> None:
        super().__init__(model, settings, snapshots)
        self.student = Student(model, loss, dropout=settings.dropout, fused_attention=self.method.first_order_only)

    def theta(self, image: Mapping[str, Tensor], text: Mapping[str, Tensor]) -> Tensors:
        device = self.model.mean.device
        return tuple(tensor.to(device) for tensor in self.student.view.from_dicts(image, text))

    def fresh_starts(self) -> Callable[[int], Tensors]:
        fresh, view = FreshWeights(self.model), self.student.view

        # The student's steps do not change the model's own parameters, so they can be read later.
        def start(seed: int) -> Tensors:
            drawn = fresh.draw(seed)
            return [
                drawn[name].to(own) if name in drawn else own.detach().clone()
                for name, own in zip(view.names, view.parameters, strict=True)
            ]

        return start

    @torch.no_grad()
    def features(self, theta: Tensors, rows: RealRows) -> tuple[Tensor, Tensor]:
        with in_mode(self.model, training=False):
            return call(self.model, self.student.view, theta, rows.inputs, rows.texts)

    def loss_of_rows(self, rows: RealRows, seed: int, loss: FeatureLoss) -> OuterLoss:
        def outer(theta: Tensors) -> Tensor:
            with in_mode(self.model, training=True), replayed_randomness(seed, 0, rows.inputs.device):
                return loss(*call(self.model, self.student.view, theta, rows.inputs, rows.texts))[None]

        return outer

    def check_differences(self, student_unroll: StudentUnroll, epsilon_in_use: float | None) -> EpsilonChoice:
        few_pairs = student_unroll.of_few_pairs(CHECKED_PAIRS)
        # The reference must be more exact than the differences: TF32 convolutions are not.
        with unfused_attention(self.model), all_bits_of_fp32():
            exact = self.gradient(few_pairs, method=GRADIENTS.load("exact"))
        return choose_epsilon(partial(self.gradient, few_pairs), exact, inner_products, epsilon_in_use)

    def _differentiate(
        self, method: Gradient, unroll: Unroll, step_inputs: StepInputs, differences: DifferenceSettings
    ) -> UnrollResult:
        student = self.student.with_inputs(step_inputs)
        return unrolled_gradient(unroll, method, student, differences, snapshots=self.snapshots)
