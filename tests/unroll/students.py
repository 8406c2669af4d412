"""Students whose unrolls the gradients are compared on."""

from typing import Any

from vldd_dist.config.sections.model import HeadSettings
from vldd_dist.testing.unroll_cases import Case, ScaledInfoNCE, dual_encoder_case

VIT = {"model": "test_vit", "model_args": {"img_size": 32}}
STUDENTS: dict[str, dict[str, Any]] = {
    "nfnet": {},
    "nfnet with dropout": {"dropout": True},
    "nfnet with a loss that learns": {"loss": ScaledInfoNCE()},
    "vit": VIT,
    "vit with checkpointing": {**VIT, "grad_checkpointing": True},
    "lora vit": {**VIT, "train": "lora"},
    "batch norm, frozen statistics": {"model": "test_resnet"},
    "head only": {"train": "head", "head": HeadSettings(kind="linear")},
    "text tower only": {"train": "frozen"},
}


def student_case(name: str, **options: Any) -> Case:
    return dual_encoder_case(**options, **STUDENTS[name]).in_model_inputs()
