"""Small students for tests, and problems to unroll them on."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor, nn

from vldd_dist.config.model import HeadSettings, ImageTowerSettings, ModelSettings, TextTowerSettings
from vldd_dist.distillation.matching import matching_loss
from vldd_dist.distillation.student import Student
from vldd_dist.distillation.unroll import Params, UnrollResult, unrolled_gradient
from vldd_dist.models.dual_encoder import build
from vldd_dist.models.inputs import model_inputs

TEXT_DIM = 12


@dataclass
class Case:
    """A student with starting and target parameters, inner learning rates and batches."""

    student: Student
    theta: Params
    target: Params
    rates: Tensor
    batches: list[Params]

    def gradient(self, name: str, difference: str = "central", **options: Any) -> UnrollResult:
        def outer(theta: Params) -> Tensor:
            return matching_loss(theta, self.theta, self.target, self.student.towers)

        return unrolled_gradient(name, self.student, self.theta, self.rates, self.batches, outer, difference, **options)

    def in_model_inputs(self) -> Self:
        """The same case with the inputs of the image tower's trainable part in place of the images."""
        self.batches = [[model_inputs(self.student.model, images), *rest] for images, *rest in self.batches]
        return self


def dual_encoder_case(
    steps: int = 3,
    dtype: torch.dtype = torch.float32,
    dropout: bool = False,
    similarity: bool = False,
    size: int = 32,
    **image: object,
) -> Case:
    """A dual encoder with the given image tower, on random pairs; images have `size` x `size` pixels."""
    image_settings = ImageTowerSettings(**{"model": "test_nfnet", "weights": "random", **image})
    joint_dim = None if image_settings.head.kind == "none" else 16
    text = TextTowerSettings(head=HeadSettings(kind="projection", dropout=0.3))
    model = build(ModelSettings(image=image_settings, text=text, joint_dim=joint_dim), TEXT_DIM, None, 0).to(dtype)
    student = Student(model, 0.07, dropout=dropout, fused_attention=False)
    student.seed = 11
    generator = torch.Generator().manual_seed(0)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype)

    theta = student.view.read()
    if image_settings.train == "lora":
        # peft initialises one LoRA factor with zeros, at which half of the derivatives vanish.
        theta = tuple(value + 0.02 * randn(*value.shape) for value in theta)
    target = tuple(value + 0.02 * randn(*value.shape) for value in theta)
    batches: list[Params] = []
    for _ in range(steps):
        batch = [randn(4, 3, size, size), randn(4, TEXT_DIM)]
        if similarity:
            batch.append(randn(4, 4).abs() + torch.eye(4, dtype=dtype))
        batches.append(batch)
    return Case(student, theta, target, torch.tensor([0.05, 0.08], dtype=dtype), batches)


def flat(result: UnrollResult) -> Tensor:
    """All gradients of the pairs in one vector."""
    return torch.cat([gradient.flatten() for batch in result.batches for gradient in batch])


def relative(found: Tensor, wanted: Tensor) -> float:
    """The relative l2 error |found - wanted| / |wanted|."""
    return float((found - wanted).norm() / wanted.norm())


@dataclass
class Quadratic:
    """loss = 1/2 |theta - b|^2 for every tower: its gradient is theta - b, so the unroll's result is known in closed form."""

    towers: Sequence[int] = (0, 1)
    seed: int = 0

    def loss(self, theta: Params, batch: Params, step: int) -> Tensor:
        return sum((0.5 * (th - b).square().sum() for th, b in zip(theta, batch, strict=True)), torch.zeros(()))


@dataclass
class Perceptron:
    """A two-layer network with a regression loss, smooth or with kinks."""

    activation: nn.Module = field(default_factory=nn.Tanh)
    towers: Sequence[int] = (0, 0, 1)
    seed: int = 0

    def loss(self, theta: Params, batch: Params, step: int) -> Tensor:
        first, second, third = theta
        inputs, outputs = batch
        return (self.activation(self.activation(inputs @ first) @ second) @ third - outputs).square().mean()
