"""Unrolls whose memory is measured and estimated, on any device."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vldd_dist.config.sections.distillation import DistillationSettings
from vldd_dist.config.sections.experts import ExpertSettings
from vldd_dist.config.sections.model import HeadSettings, ImageTowerSettings, ModelSettings, TextTowerSettings
from vldd_dist.cost_model.distillation_memory import UnrolledStep, unroll_memory
from vldd_dist.cost_model.memory_model import TrainingStep, expert_memory, peak, sizes_of
from vldd_dist.cost_model.memory_trace import MemoryTrace
from vldd_dist.distillation.student.student import Student
from vldd_dist.distillation.unroll import Tensors, Unroll, unrolled_gradient
from vldd_dist.models.dual_encoder import DualEncoder
from vldd_dist.models.losses.infonce import InfoNCE
from vldd_dist.plugins import GRADIENTS

STEPS = 4
EXPERT = ExpertSettings(momentum=0.9, weight_decay=5e-4)


@dataclass(frozen=True)
class Case:
    """A student, and a batch with activations that are large compared with the error of the measurement."""

    model: str
    arguments: dict[str, Any]
    train: str
    pairs: int
    image_size: int
    text_dim: int = 384

    @property
    def name(self) -> str:
        return self.model.removesuffix("_patch16_224") + (", LoRA" if self.train == "lora" else "")

    @property
    def settings(self) -> ModelSettings:
        image = {"model": self.model, "model_args": self.arguments, "weights": "random", "train": self.train}
        text = TextTowerSettings(head=HeadSettings(kind="projection", dropout=0))
        return ModelSettings(image=ImageTowerSettings.model_validate(image), text=text)

    def batch(self, pairs: int, device: torch.device) -> list[Tensor]:
        images = torch.randn(pairs, 3, self.image_size, self.image_size, device=device)
        return [images, torch.randn(pairs, self.text_dim, device=device)]


def estimate(case: Case, what: str) -> int:
    """The plan's estimate in bytes for an unroll with a gradient, or for an expert's training step."""
    trace = MemoryTrace(case.settings, case.text_dim, case.image_size)
    sizes, batch = sizes_of(trace), case.pairs * trace.input_bytes(case.pairs)
    if what == "expert":
        first = trace.first_order(case.pairs, training=True, of_batch=False, keep=True)
        terms = expert_memory(sizes, TrainingStep(batch, first), EXPERT)
        return terms["momentum"] + terms["activations"]
    if what == "full":
        step = UnrolledStep(batch, trace.full_graph(case.pairs, dropout=False))
    elif what == "exact":
        step = UnrolledStep(batch, trace.second_order(case.pairs, dropout=False, with_theta=True))
    else:
        step = UnrolledStep(batch, trace.first_order(case.pairs, training=False, of_batch=True, keep=True))
    return peak(unroll_memory(sizes, step, DistillationSettings(objective={"gradient": what, "inner_steps": STEPS})))


def unroll(model: DualEncoder, case: Case, gradient: str, pairs: int) -> Callable[[], object]:
    """A function that computes the unroll on the model's device."""
    device = model.mean.device
    student = Student(model, InfoNCE(), dropout=False, fused_attention=gradient == "finite_difference")
    start, target = student.view.read(), student.view.read()
    batches, rates = [case.batch(pairs, device) for _ in range(STEPS)], torch.tensor([0.01, 0.01], device=device)

    def outer(end: Tensors) -> Tensor:
        return torch.stack([(a - b).square().sum() for a, b in zip(end, target, strict=True)]).sum()

    unroll = Unroll(start, rates, batches, outer, student.towers)
    return lambda: unrolled_gradient(unroll, GRADIENTS.load(gradient), student)
