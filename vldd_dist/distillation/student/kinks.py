"""Finds modules whose derivative jumps (kinks): across a jump, a difference of gradients is wrong for any epsilon."""

from torch import nn

from vldd_dist.errors import ConfigError
from vldd_dist.models.dual_encoder import DualEncoder

# Class names in lower case; timm's memory-efficient variants without their suffix "me". CELU, and ELU with its default alpha,
# are not listed, because their first derivative does not jump.
KINKED = {
    "hardmish",
    "hardshrink",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "leakyrelu",
    "prelu",
    "relu",
    "relu6",
    "rrelu",
    "selu",
    "softshrink",
    "threshold",
}
# Channel gates have only a few units an image, each computed from the mean of a whole feature map, which an inner step hardly
# changes. NFNets and RegNets use ReLU there, and finite differences are as accurate as with SiLU (docs/decisions.md).
GATES = {"semodule", "squeezeexcite", "squeezeexcitecl"}


def refuse_kinked_student(model: DualEncoder) -> None:
    """`refuse_kinks` for the trained parts of the model. A frozen backbone is not part of the unroll."""
    if not model.freezes_backbone:
        refuse_kinks(model.image_backbone, "image_backbone")
    refuse_kinks(model.image_head, "image_head")
    refuse_kinks(model.text_head, "text_head")


def refuse_kinks(part: nn.Module, name: str) -> None:
    """Raises ConfigError if a part of the student has an activation with a kink or a max pooling, for which finite differences
    do not give the gradient. Kinks in functions that are not modules are not found."""
    if kink := first_kink(part):
        path, kind = kink
        raise ConfigError(
            "distill.objective.gradient: finite_difference needs a smooth student, and "
            f"{f'{name}.{path}'.rstrip('.')} is a {kind}, whose derivative jumps: set distill.objective.gradient: exact"
        )


def first_kink(module: nn.Module) -> tuple[str, str] | None:
    """(path, class name) of the first module with a kink in `module`, gates excepted; None if there is none."""
    gates = tuple(f"{name}." for name, inner in module.named_modules() if _class_names(inner) & GATES)
    for name, inner in module.named_modules():
        if is_kinked(inner) and not name.startswith(gates):
            return name, type(inner).__name__
    return None


def is_kinked(module: nn.Module) -> bool:
    """Whether the derivative of a module itself jumps, apart from its submodules. Max pooling counts: where another pixel
    becomes the largest, the gradient jumps to that pixel."""
    names = _class_names(module)
    if isinstance(module, nn.ELU) and module.alpha != 1:
        return True
    return bool(names & KINKED) or any("maxpool" in name or "avgmax" in name for name in names)


def _class_names(module: nn.Module) -> set[str]:
    """Names, as in `KINKED`, of the module's class and its base classes."""
    return {kind.__name__.lower().removesuffix("me") for kind in type(module).__mro__}
