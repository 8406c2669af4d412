"""Frozen backbones: an outer step in feature space compared with the general path, where pixels pass it in every inner
step.

    python -m benchmarks.heads

Both compute the same gradient of the images (`exact`, eight steps on all pairs, only heads are trained). In feature space the
backbone has one forward and one backward pass per image and outer step; on the general path it has them in every inner step.
Times are median CPU seconds of one thread; the two alternate. The last line is JSON: time_ratio_heads, error_heads (relative
l2), each the worst over the towers.
"""

import argparse
import statistics

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks._measure import cpu_seconds, print_json
from vldd_dist.config.sections.model import HeadSettings, ImageTowerSettings, ModelSettings, TextTowerSettings
from vldd_dist.distillation.objectives.trajectory_matching.distance import matching_loss
from vldd_dist.distillation.student.student import Student
from vldd_dist.distillation.unroll import Tensors, Unroll, scatter_to_pairs, unrolled_gradient
from vldd_dist.distillation.unroll.exact import EXACT
from vldd_dist.models.attention import unfused_attention
from vldd_dist.models.dual_encoder import build
from vldd_dist.models.image.frozen_backbone import FrozenBackbone
from vldd_dist.models.losses.infonce import InfoNCE

TOWERS = {"vit_tiny_patch16_224": {"img_size": 64}, "nf_regnet_b1": {}, "mobilenetv2_100": {}}
IMAGE_SIZE, PAIRS, STEPS, TEXT_DIM = 64, 20, 8, 384


class Frozen:
    """Twenty pairs, a student whose heads are trained, and its target."""

    def __init__(self, tower: str) -> None:
        image = ImageTowerSettings(
            model=tower, model_args=TOWERS[tower], weights="random", train="head", head=HeadSettings(kind="linear")
        )
        text = TextTowerSettings(head=HeadSettings(kind="projection", dropout=0))
        self.model = build(ModelSettings(image=image, text=text, joint_dim=256), TEXT_DIM, None, 0)
        self.frozen_backbone = FrozenBackbone(self.model.image_backbone)
        self.student = Student(self.model, InfoNCE(), dropout=False, fused_attention=False)
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randn(PAIRS, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator)
        self.texts = torch.randn(PAIRS, TEXT_DIM, generator=generator)
        self.start: Tensors = self.student.view.read()
        self.target = [tensor + 0.01 * torch.randn(tensor.shape, generator=generator) for tensor in self.start]

    def in_feature_space(self) -> Tensor:
        """The gradient of the images, (PAIRS, 3, H, W)."""
        encoded = self.frozen_backbone.features_with_graph(self.images, limit=1 << 30)
        return encoded.pixel_gradients(self._unrolled(self.student, encoded.features))

    def by_the_general_path(self) -> Tensor:
        return self._unrolled(ThroughTheTower(self.student), self.images)

    def _unrolled(self, student: "Student | ThroughTheTower", inputs: Tensor) -> Tensor:
        def outer(theta: Tensors) -> Tensor:
            return matching_loss(theta, self.start, self.target, self.student.towers)

        batches = [(inputs, self.texts)] * STEPS
        unroll = Unroll(self.start, torch.tensor([0.1, 0.1]), batches, outer, self.student.towers)
        result = unrolled_gradient(unroll, EXACT, student)
        return scatter_to_pairs(result.batch_gradients, [torch.arange(PAIRS)] * STEPS, PAIRS)[0]


class ThroughTheTower:
    """The same student for the unroll, but with images instead of features as inputs."""

    def __init__(self, student: Student) -> None:
        self.student, self.seed = student, student.seed

    def loss(self, theta: Tensors, batch: Tensors, step: int) -> Tensor:
        images, texts = batch
        with unfused_attention(self.student.model):
            features = self.student.model.image_backbone(images)
        return self.student.loss(theta, (features, texts), step)


def main() -> None:
    parser = argparse.ArgumentParser(description="Feature space against the general path, for frozen backbones.")
    parser.add_argument("--quick", action="store_true", help="one tower, two repeats")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    table = Table(
        "tower", "general, s", "features, s", "ratio", "error", title=f"{IMAGE_SIZE} px, {PAIRS} pairs, {STEPS} steps"
    )
    ratios, errors = [], []
    for tower in list(TOWERS)[:1] if arguments.quick else TOWERS:
        frozen = Frozen(tower)
        # The first run of each also loads the kernels.
        features, general = frozen.in_feature_space(), frozen.by_the_general_path()
        errors.append(float((features - general).norm() / general.norm()))
        durations: dict[str, list[float]] = {"general": [], "features": []}
        for _ in range(2 if arguments.quick else 5):
            durations["general"].append(cpu_seconds(frozen.by_the_general_path))
            durations["features"].append(cpu_seconds(frozen.in_feature_space))
        medians = {path: statistics.median(seconds) for path, seconds in durations.items()}
        ratios.append(medians["features"] / medians["general"])
        figures = f"{medians['general']:.2f}", f"{medians['features']:.2f}", f"{ratios[-1]:.2f}", f"{errors[-1]:.1e}"
        table.add_row(tower, *figures)
    Console(width=100).print(table)
    print_json({"time_ratio_heads": round(max(ratios), 3), "error_heads": max(errors)})


if __name__ == "__main__":
    main()
