"""Small students for tests, and small unrolls of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor, nn

from vldd_dist.config.sections.model import HeadSettings, ImageTowerSettings, ModelSettings, TextTowerSettings
from vldd_dist.distillation.objectives.trajectory_matching.distance import matching_loss
from vldd_dist.distillation.student.student import StepInputs, Student, without_fixed
from vldd_dist.distillation.unroll import (
    PLAIN,
    DifferenceSettings,
    Sgd,
    SnapshotStack,
    Tensors,
    Unroll,
    UnrollResult,
    unrolled_gradient,
)
from vldd_dist.models.dual_encoder import build
from vldd_dist.models.inputs import model_inputs
from vldd_dist.models.losses import Learned, Loss
from vldd_dist.models.losses.base import NONE
from vldd_dist.models.losses.infonce import InfoNCE
from vldd_dist.plugins import GRADIENTS

TEXT_DIM = 12


class ScaledInfoNCE(InfoNCE):
    """InfoNCE with a learned row tensor in addition to its shared one: `log_scales` (B,), which scale the image features
    before a penalty on their norm."""

    name: str = "scaled_infonce"
    learn_temperature: bool = True

    def __call__(
        self,
        image_features: Tensor,
        text_features: Tensor,
        rows: Mapping[str, Tensor] = NONE,
        shared: Mapping[str, Tensor] = NONE,
    ) -> Tensor:
        loss = super().__call__(image_features, text_features, rows, shared)
        if "log_scales" not in rows:
            return loss
        scaled = image_features * rows["log_scales"].exp()[:, None]
        return loss + 0.1 * (scaled.square().mean() + shared["log_temperature"].square().sum())

    def learned_rows(self, numbers: range, total: int) -> dict[str, Learned]:
        return {"log_scales": Learned(torch.tensor([0.01 * number for number in numbers]), 0.1)}


@dataclass
class Case:
    """A student with start and target parameters, learning rates, batches and the shared tensors of its loss.

    Attributes:
        fixed: positions in a batch of tensors that are not learned.
    """

    student: Student
    theta: Tensors
    target: Tensors
    rates: Tensor
    batches: list[Tensors]
    shared: Tensors = ()
    fixed: frozenset[int] = frozenset()

    def gradient(
        self,
        name: str,
        difference: str = "central",
        *,
        shared: Tensors | None = None,
        sgd: Sgd = PLAIN,
        relative_epsilon: float | None = None,
        snapshots: SnapshotStack | None = None,
    ) -> UnrollResult:
        """The gradient of the matching loss. The other arguments are those of `Unroll` and `unrolled_gradient`.

        Args:
            name: of a gradient in `plugins.GRADIENTS`.
            difference, relative_epsilon: see `DifferenceSettings`.
            shared: used in place of the case's shared tensors.
        """

        def outer(theta: Tensors) -> Tensor:
            return matching_loss(theta, self.theta, self.target, self.student.towers)

        divided = [without_fixed(batch, self.fixed) for batch in self.batches]
        student = self.student.with_inputs(replace(self.student.step_inputs, fixed=[fixed for _, fixed in divided]))
        learned = [batch for batch, _ in divided]
        shared = self.shared if shared is None else shared
        unroll = Unroll(self.theta, self.rates, learned, outer, self.student.towers, shared, sgd)
        differences = DifferenceSettings(difference, relative_epsilon)
        return unrolled_gradient(unroll, GRADIENTS.load(name), student, differences, snapshots=snapshots)

    def to(self, target: torch.device | torch.dtype) -> Self:
        """The same case on a device, or in another precision."""

        def moved(tensors: Tensors) -> list[Tensor]:
            return [tensor.to(target) for tensor in tensors]

        self.student.model.to(target)
        self.theta, self.target, self.shared = moved(self.theta), moved(self.target), moved(self.shared)
        self.rates, self.batches = self.rates.to(target), [moved(batch) for batch in self.batches]
        return self

    def in_model_inputs(self) -> Self:
        """The same case with the inputs of the image tower's trainable part instead of the images."""
        self.batches = [[model_inputs(self.student.model, images), *rest] for images, *rest in self.batches]
        return self


def dual_encoder_case(
    steps: int = 3,
    dtype: torch.dtype = torch.float32,
    dropout: bool = False,
    loss: Loss | None = None,
    size: int = 32,
    **image: object,
) -> Case:
    """A dual encoder on random pairs.

    Args:
        loss: None: InfoNCE.
        size: side of the images, pixels.
        image: settings of the image tower.
    """
    image_settings = ImageTowerSettings(**{"model": "test_nfnet", "weights": "random", **image})
    joint_dim = None if image_settings.head.kind == "none" else 16
    text = TextTowerSettings(head=HeadSettings(kind="projection", dropout=0.3))
    model = build(ModelSettings(image=image_settings, text=text, joint_dim=joint_dim), TEXT_DIM, None, 0).to(dtype)
    loss = loss or InfoNCE()
    student = Student(model, loss, dropout=dropout, fused_attention=False).with_inputs(StepInputs(seed=11))
    generator = torch.Generator().manual_seed(0)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype)

    theta = student.view.read()
    if image_settings.train == "lora":
        # peft initialises one LoRA factor with zeros, at which half of the derivatives vanish.
        theta = tuple(value + 0.02 * randn(*value.shape) for value in theta)
    target = tuple(value + 0.02 * randn(*value.shape) for value in theta)
    rows = list(loss.learned_rows(range(4), 4).values())
    batches: list[Tensors] = []
    for _ in range(steps):
        batch = [randn(4, 3, size, size), randn(4, TEXT_DIM)]
        batch += [row.start.to(dtype) + 0.1 * randn(*row.start.shape) if row.lr else row.start for row in rows]
        batches.append(batch)
    # The loss's rows come after images and texts.
    fixed = frozenset(position for position, row in enumerate(rows, 2) if not row.lr)
    shared = [learned.start.to(dtype) for learned in loss.learned_shared().values()]
    return Case(student, theta, target, torch.tensor([0.05, 0.08], dtype=dtype), batches, shared, fixed)


def flat(result: UnrollResult) -> Tensor:
    """All gradients of the pairs in one vector."""
    return torch.cat([gradient.flatten() for batch in result.batch_gradients for gradient in batch])


def relative(actual: Tensor, expected: Tensor) -> float:
    """The relative l2 error |actual - expected| / |expected|."""
    return float((actual - expected).norm() / expected.norm())


@dataclass
class Quadratic:
    """loss = 1/2 |theta - b|^2 for every tower: its gradient is theta - b, so the unroll's result is known in closed form."""

    towers: Sequence[int] = (0, 1)
    seed: int = 0

    def loss(self, theta: Tensors, batch: Tensors, step: int) -> Tensor:
        return sum((0.5 * (th - b).square().sum() for th, b in zip(theta, batch, strict=True)), torch.zeros(()))


@dataclass
class Perceptron:
    """A two-layer network with a regression loss, smooth or with kinks."""

    activation: nn.Module = field(default_factory=nn.Tanh)
    towers: Sequence[int] = (0, 0, 1)
    seed: int = 0

    def loss(self, theta: Tensors, batch: Tensors, step: int) -> Tensor:
        first, second, third = theta
        inputs, outputs = batch
        return (self.activation(self.activation(inputs @ first) @ second) @ third - outputs).square().mean()
