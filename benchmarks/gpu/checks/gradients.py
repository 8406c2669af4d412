"""The four gradients and a frozen backbone on the device, in each precision, compared with the same in fp64."""

import copy
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.notes import Notes
from benchmarks.gpu.place import Place, rounding
from vldd_dist.config.sections.model import HeadSettings
from vldd_dist.distillation.student.kinks import refuse_kinked_student
from vldd_dist.distillation.unroll import UnrollResult
from vldd_dist.errors import ConfigError
from vldd_dist.models.image.backbone import create_backbone, feature_size
from vldd_dist.models.image.frozen_backbone import FrozenBackbone
from vldd_dist.testing.unroll_cases import Case, dual_encoder_case, flat, relative

VIT = {"model": "test_vit", "model_args": {"img_size": 32}}
STUDENTS: dict[str, dict[str, Any]] = {
    "NFNet": {},
    "NFNet, dropout": {"dropout": True},
    "ViT": VIT,
    "ViT, checkpointing": {**VIT, "grad_checkpointing": True},
    "ViT, LoRA": {**VIT, "train": "lora"},
    "ResNet with ReLU": {"model": "test_resnet"},
    # Its pairs are features, so that only the heads are part of the student.
    "frozen backbone": {"train": "head", "head": HeadSettings(kind="linear")},
}
FROZEN = "frozen backbone"
# The backbone whose features and pixels are checked: it has batch norms, which are folded. Its images make two chunks.
TOWER, IMAGES, IMAGE_SIZE = "test_efficientnet", 40, 32
# Row of the table -> gradient and kind of finite difference.
GRADIENTS = {
    "full": ("full", "central"),
    "exact": ("exact", "central"),
    "tesla": ("tesla", "central"),
    "central differences": ("finite_difference", "central"),
    "forward differences": ("finite_difference", "forward"),
}
# Limits of the relative l2 error of the gradient of the pairs or of the rates, whichever is larger. Second derivatives are as
# accurate as the factors of products (TF32 has 10 bits, bf16 has 7). Finite differences are always computed in fp32, so that
# they have one limit.
LIMITS = {"fp32": 3e-4, "tf32": 3e-2, "bf16": 0.15}
DIFFERENCE_LIMITS = {"central differences": 5e-3, "forward differences": 3e-2}
# Rounding may move an activation to the other side of a kink, which changes its whole derivative: the limit is larger.
KINKED = "ResNet with ReLU"
KINK_FACTOR, LARGEST_LIMIT = 5, 0.5
# A GPU draws different masks in fp64, so this student is compared with `full` in fp32.
WITH_DROPOUT = "NFNet, dropout"
TINY = ("ViT, LoRA", KINKED)


def run(place: Place, notes: Notes) -> None:
    """Every combination of student, gradient and precision that the package allows; TF32 only on a GPU."""
    precisions = ["fp32", "tf32", "bf16"] if place.on_gpu else ["fp32", "bf16"]
    if not place.on_gpu:
        notes.remark("TF32 is not measured, because a CPU does not have it")
    notes.remark(f"{WITH_DROPOUT}: compared with `full` in fp32, because a GPU draws different masks in fp64")
    for student in TINY if place.tiny else STUDENTS:
        references = {gradient: _reference(student, gradient, place) for gradient in ("full", "tesla")}
        for precision in precisions:
            for gradient in GRADIENTS:
                if not _is_measured(student, gradient, precision, place):
                    continue
                case = _case(student, place)
                case.student.model.bf16_backbone = precision == "bf16"
                with rounding(precision):
                    result = case.gradient(*GRADIENTS[gradient])
                reference = references["tesla" if gradient == "tesla" else "full"]
                limit = _limit(student, gradient, precision)
                notes.check(f"{student}: {gradient}, {precision}", _error(result, reference), limit)
    check_frozen_backbone(place, precisions, notes)
    _refuses_kinks(place, notes)


def check_frozen_backbone(place: Place, precisions: list[str], notes: Notes) -> None:
    """The features of a `FrozenBackbone` and the gradients that it propagates to the pixels, compared with those in fp64."""
    backbone = create_backbone(TOWER, {}, pretrained=False, seed=0).eval().requires_grad_(False).to(place.device)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(IMAGES, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator)
    gradients = torch.randn(IMAGES, feature_size(backbone), generator=generator)
    images, gradients = images.to(place.device), gradients.to(place.device)
    leaf = images.double().requires_grad_()
    features = copy.deepcopy(backbone).double()(leaf)
    (pixels,) = torch.autograd.grad(features, leaf, gradients.double())
    for precision in precisions:
        frozen = FrozenBackbone(backbone, bf16=precision == "bf16")
        for graphs, limit in (("kept", 1 << 30), ("dropped", 0)):
            with rounding(precision):
                encoded = frozen.features_with_graph(images, limit)
                found = encoded.pixel_gradients(gradients)
            errors = relative(encoded.features.double(), features.detach()), relative(found.double(), pixels)
            notes.check(f"{FROZEN}: to its pixels, graphs {graphs}, {precision}", _larger(errors), LIMITS[precision])


def _is_measured(student: str, gradient: str, precision: str, place: Place) -> bool:
    if gradient in DIFFERENCE_LIMITS and (student == KINKED or precision == "bf16"):
        return False
    if student == FROZEN and precision == "bf16":
        # Heads always run in fp32.
        return False
    if student == WITH_DROPOUT and (gradient == "tesla" or (gradient, precision) == ("full", "fp32")):
        # They would be compared with themselves.
        return False
    return not place.tiny or gradient in ("exact", "tesla", "central differences")


def _reference(student: str, gradient: str, place: Place) -> UnrollResult:
    case = _case(student, place)
    # The fp32 values are converted, so that the reference has the same values and not others that are drawn in fp64.
    case = case if student == WITH_DROPOUT else case.to(torch.float64)
    with rounding("fp32"):
        return case.gradient(*GRADIENTS[gradient])


def _case(student: str, place: Place) -> Case:
    return dual_encoder_case(**STUDENTS[student]).to(place.device).in_model_inputs()


def _error(result: UnrollResult, reference: UnrollResult) -> float:
    """The larger relative error of the gradients of pairs and rates; NaN if one of them is NaN."""

    def error_of(actual: Tensor, expected: Tensor) -> float:
        return relative(actual.double(), expected.double())

    return _larger((error_of(flat(result), flat(reference)), error_of(result.rate_gradients, reference.rate_gradients)))


def _larger(errors: tuple[float, float]) -> float:
    return max(errors, key=lambda error: (error != error, error))


def _limit(student: str, gradient: str, precision: str) -> float:
    limit = DIFFERENCE_LIMITS.get(gradient, LIMITS[precision])
    return min(KINK_FACTOR * limit, LARGEST_LIMIT) if student == KINKED else limit


def _refuses_kinks(place: Place, notes: Notes) -> None:
    try:
        refuse_kinked_student(_case(KINKED, place).student.model)
    except ConfigError as error:
        notes.remark(f"finite differences of a {KINKED} are refused: {error}")
    else:
        notes.wrong(f"finite differences of a {KINKED} were not refused")
