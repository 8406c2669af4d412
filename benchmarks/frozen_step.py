"""An outer step on a frozen image backbone, with an earlier implementation and with the current one.

    python -m benchmarks.frozen_step [--quick]

MobileNetV2 with random weights at 128 pixels, 100 pairs, eight inner steps on all of them, `exact`, only the heads are trained.
Before: the unchanged backbone computes the features, and computes them once more for the gradients of the pixels, in chunks
of 64 images; this reference is in this file. Now: `FrozenBackbone`, which computes them once. Times are median CPU seconds of
one thread; the two alternate in one process. The last line is JSON: frozen_outer_step_speedup, the seconds of both by part,
and the relative l2 error of each gradient of the pixels compared with float64.
"""

import argparse
import statistics
from collections.abc import Callable
from typing import Protocol

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks._measure import cpu_seconds, print_json
from vldd_dist.config.sections.distillation import DistillationSettings
from vldd_dist.config.sections.model import HeadSettings, ImageTowerSettings, ModelSettings, TextTowerSettings
from vldd_dist.distillation.objectives.trajectory_matching.distance import matching_loss
from vldd_dist.distillation.student.student import Student
from vldd_dist.distillation.unroll import Tensors, Unroll, scatter_to_pairs, unrolled_gradient
from vldd_dist.distillation.unroll.exact import EXACT
from vldd_dist.models.dual_encoder import DualEncoder, build
from vldd_dist.models.image.frozen_backbone import FrozenBackbone
from vldd_dist.models.losses.infonce import InfoNCE

TOWER, IMAGE_SIZE, PAIRS, STEPS, TEXT_DIM = "mobilenetv2_100", 128, 100, 8, 384
CHUNK_BEFORE = 64
PARTS = ("forward", "unroll", "backward")


class Implementation(Protocol):
    """Computes features of images, and gradients of the pixels from gradients of the features."""

    def forward(self, images: Tensor) -> Tensor: ...

    def backward(self, gradients: Tensor) -> Tensor: ...


class Before:
    """Two forward passes of the unchanged backbone."""

    def __init__(self, model: DualEncoder) -> None:
        self.backbone, self.images = model.image_backbone, torch.empty(0)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        self.images = images
        return torch.cat([self.backbone(chunk) for chunk in images.split(CHUNK_BEFORE)])

    def backward(self, gradients: Tensor) -> Tensor:
        of_chunks: list[Tensor] = []
        for chunk, gradient in zip(self.images.split(CHUNK_BEFORE), gradients.split(CHUNK_BEFORE), strict=True):
            leaf = chunk.detach().requires_grad_()
            of_chunks.extend(torch.autograd.grad(self.backbone(leaf), leaf, gradient))
        return torch.cat(of_chunks)


class Now:
    """The package's implementation, with the default limit on kept graphs."""

    def __init__(self, model: DualEncoder) -> None:
        self.frozen_backbone, self.limit = FrozenBackbone(model.image_backbone), DistillationSettings().tower_graph_mib << 20

    def forward(self, images: Tensor) -> Tensor:
        self.encoded = self.frozen_backbone.features_with_graph(images, self.limit)
        return self.encoded.features

    def backward(self, gradients: Tensor) -> Tensor:
        return self.encoded.pixel_gradients(gradients)


class OuterStep:
    """The pairs, a student whose heads are trained, and its target."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        head = HeadSettings(kind="linear")
        image = ImageTowerSettings(model=TOWER, weights="random", train="head", head=head)
        text = TextTowerSettings(head=HeadSettings(kind="projection", dropout=0))
        self.model = build(ModelSettings(image=image, text=text, joint_dim=256), TEXT_DIM, None, 0).to(dtype)
        self.student = Student(self.model, InfoNCE(), dropout=False, fused_attention=False)
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randn(PAIRS, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator).to(dtype)
        self.texts = torch.randn(PAIRS, TEXT_DIM, generator=generator).to(dtype)
        self.start: Tensors = self.student.view.read()
        self.target = [tensor + 0.01 * torch.randn(tensor.shape, generator=generator).to(dtype) for tensor in self.start]

    def take(self, implementation: Implementation) -> tuple[dict[str, float], Tensor]:
        """CPU seconds of each part, and the gradient of the images (PAIRS, 3, H, W)."""
        results: dict[str, Tensor] = {}

        def timed(part: str, work: Callable[[], Tensor]) -> float:
            return cpu_seconds(lambda: results.update({part: work()}))

        seconds = {
            "forward": timed("forward", lambda: implementation.forward(self.images)),
            "unroll": timed("unroll", lambda: self._unrolled(results["forward"])),
            "backward": timed("backward", lambda: implementation.backward(results["unroll"])),
        }
        return seconds, results["backward"]

    def _unrolled(self, features: Tensor) -> Tensor:
        def outer(theta: Tensors) -> Tensor:
            return matching_loss(theta, self.start, self.target, self.student.towers)

        batches = [(features, self.texts)] * STEPS
        unroll = Unroll(self.start, features.new_tensor([0.1, 0.1]), batches, outer, self.student.towers)
        result = unrolled_gradient(unroll, EXACT, self.student)
        return scatter_to_pairs(result.batch_gradients, [torch.arange(PAIRS)] * STEPS, PAIRS)[0]


def measure(repeats: int) -> dict[str, float]:
    """The figures of the last line, from `repeats` alternating steps of each implementation after one that loads the
    kernels."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        step = OuterStep()
        implementations: dict[str, Implementation] = {"before": Before(step.model), "now": Now(step.model)}
        gradients = {name: step.take(implementation)[1] for name, implementation in implementations.items()}
        reference = OuterStep(torch.float64)
        _, expected = reference.take(Before(reference.model))
        del reference
        durations: dict[str, list[dict[str, float]]] = {name: [] for name in implementations}
        for _ in range(repeats):
            for name, implementation in implementations.items():
                durations[name].append(step.take(implementation)[0])
    finally:
        torch.set_num_threads(threads)
    totals = {name: statistics.median(sum(run.values()) for run in runs) for name, runs in durations.items()}
    figures = {"frozen_outer_step_speedup": totals["before"] / totals["now"]}
    for name, runs in durations.items():
        figures[f"{name}_seconds"] = totals[name]
        figures |= {f"{name}_{part}_seconds": statistics.median(run[part] for run in runs) for part in PARTS}
    rounded = {name: round(value, 3) for name, value in figures.items()}
    errors = {f"{name}_error": float((actual - expected).norm() / expected.norm()) for name, actual in gradients.items()}
    return rounded | {name: float(f"{error:.2e}") for name, error in errors.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="An outer step on a frozen image backbone: before and now.")
    parser.add_argument("--quick", action="store_true", help="three repetitions")
    figures = measure(3 if parser.parse_args().quick else 9)
    table = Table("CPU s", *PARTS, "step", title=f"{TOWER}, {IMAGE_SIZE} px, {PAIRS} pairs, {STEPS} inner steps")
    for name in ("before", "now"):
        keys = [*(f"{name}_{part}_seconds" for part in PARTS), f"{name}_seconds"]
        table.add_row(name, *(f"{figures[key]:.2f}" for key in keys))
    Console(width=100).print(table)
    print_json(figures)


if __name__ == "__main__":
    main()
