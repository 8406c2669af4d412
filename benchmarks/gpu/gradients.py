"""The four gradients on the device, in each precision, against the same gradient in fp64."""

from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.notes import Notes
from benchmarks.gpu.place import Place, rounding
from vldd_dist.config.sections.model import HeadSettings
from vldd_dist.distillation.student.kinks import refuse_kinked_student
from vldd_dist.distillation.unroll import UnrollResult
from vldd_dist.errors import ConfigError
from vldd_dist.testing.unroll_problems import Case, dual_encoder_case, flat, relative

VIT = {"model": "test_vit", "model_args": {"img_size": 32}}
STUDENTS: dict[str, dict[str, Any]] = {
    "NFNet": {},
    "NFNet, dropout": {"dropout": True},
    "ViT": VIT,
    "ViT, checkpointing": {**VIT, "grad_checkpointing": True},
    "ViT, LoRA": {**VIT, "train": "lora"},
    "ResNet with ReLU": {"model": "test_resnet"},
    "frozen tower": {"train": "head", "head": HeadSettings(kind="linear")},
}
# Row -> name and difference of the gradient.
WAYS = {
    "full": ("full", "central"),
    "exact": ("exact", "central"),
    "tesla": ("tesla", "central"),
    "central differences": ("finite_difference", "central"),
    "forward differences": ("finite_difference", "forward"),
}
# Relative l2 error of the gradient of the pairs or of the rates, the worse one. Second derivatives round as the factors do
# (TF32 has 10 bits, bf16 has 7); differences are taken in fp32 whatever torch is set to, so they have one limit.
LIMITS = {"fp32": 3e-4, "tf32": 3e-2, "bf16": 0.15}
OF_DIFFERENCES = {"central differences": 5e-3, "forward differences": 3e-2}
# Where a factor is rounded to the other side of a kink, its whole derivative changes.
KINKED = "ResNet with ReLU"
BEYOND_A_KINK, AT_MOST = 5, 0.5
# A GPU draws other masks for fp64: these are held against `full` in fp32.
DROPS = "NFNet, dropout"
TINY = ("ViT, LoRA", KINKED)


def run(place: Place, notes: Notes) -> None:
    """TF32 is for GPUs; every network takes every gradient that the product lets it have."""
    precisions = ["fp32", "tf32", "bf16"] if place.on_gpu else ["fp32", "bf16"]
    if not place.on_gpu:
        notes.remark("a CPU has no TF32: not measured")
    notes.remark(f"{DROPS}: against `full` in fp32, for a GPU draws other masks in fp64")
    for student in TINY if place.tiny else STUDENTS:
        references = {way: _reference(student, way, place) for way in ("full", "tesla")}
        for precision in precisions:
            for way in WAYS:
                if not _is_taken(student, way, precision, place):
                    continue
                case = _case(student, place)
                case.student.model.bf16_backbone = precision == "bf16"
                with rounding(precision):
                    found = case.gradient(*WAYS[way])
                wanted = references["tesla" if way == "tesla" else "full"]
                notes.check(f"{student}: {way}, {precision}", _error(found, wanted), _limit(student, way, precision))
    _refuses_kinks(place, notes)


def _is_taken(student: str, way: str, precision: str, place: Place) -> bool:
    if way in OF_DIFFERENCES and (student == KINKED or precision == "bf16"):
        return False
    if student == DROPS and (way == "tesla" or (way, precision) == ("full", "fp32")):
        # They would be held against themselves.
        return False
    return not place.tiny or way in ("exact", "tesla", "central differences")


def _reference(student: str, way: str, place: Place) -> UnrollResult:
    case = _case(student, place)
    # The same numbers in twice the bits, and not others that are drawn in them.
    case = case if student == DROPS else case.to(torch.float64)
    with rounding("fp32"):
        return case.gradient(*WAYS[way])


def _case(student: str, place: Place) -> Case:
    return dual_encoder_case(**STUDENTS[student]).to(place.device).in_model_inputs()


def _error(found: UnrollResult, wanted: UnrollResult) -> float:
    def off(ours: Tensor, theirs: Tensor) -> float:
        return relative(ours.double(), theirs.double())

    return max(off(flat(found), flat(wanted)), off(found.rates, wanted.rates), key=lambda error: (error != error, error))


def _limit(student: str, way: str, precision: str) -> float:
    limit = OF_DIFFERENCES.get(way, LIMITS[precision])
    return min(BEYOND_A_KINK * limit, AT_MOST) if student == KINKED else limit


def _refuses_kinks(place: Place, notes: Notes) -> None:
    try:
        refuse_kinked_student(_case(KINKED, place).student.model)
    except ConfigError as error:
        notes.remark(f"finite differences of a {KINKED} are refused: {error}")
    else:
        notes.wrong(f"finite differences of a {KINKED} were not refused")
