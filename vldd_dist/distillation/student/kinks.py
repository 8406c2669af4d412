"""Modules whose derivative jumps: differences of gradients across a jump are of no use, whatever the step."""

from torch import nn

from vldd_dist.errors import ConfigError
from vldd_dist.models.dual_encoder import DualEncoder

# Names of classes in lower case, timm's memory-efficient variants without their "me". Not here: CELU, and ELU with
# its usual alpha, whose first derivative does not jump.
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
# Gates of channels: a few units an image, each on the mean of a whole map, which an inner step hardly moves. NFNets and
# RegNets have ReLU there, and their differences are as good as with SiLU in its place (docs/decisions.md).
GATES = {"semodule", "squeezeexcite", "squeezeexcitecl"}


def refuse_kinked_student(model: DualEncoder) -> None:
    """`refuse_kinks` for what moves. A frozen backbone is not in the unroll."""
    if not model.frozen_backbone:
        refuse_kinks(model.image_backbone, "image_backbone")
    refuse_kinks(model.image_head, "image_head")
    refuse_kinks(model.text_head, "text_head")


def refuse_kinks(part: nn.Module, name: str) -> None:
    """Raises ConfigError for a part of a student that has an activation with a kink, or takes a maximum: finite differences are
    not its gradient. Kinks of plain functions are not seen here."""
    if found := first_kink(part):
        place, kind = found
        raise ConfigError(
            "distill.objective.gradient: finite_difference needs a smooth student, and "
            f"{f'{name}.{place}'.rstrip('.')} is a {kind}, whose derivative jumps: set distill.objective.gradient: exact"
        )


def first_kink(module: nn.Module) -> tuple[str, str] | None:
    """(name, class) of the first kinked module in it; none if it has none."""
    gates = tuple(f"{name}." for name, inner in module.named_modules() if _names(inner) & GATES)
    for name, inner in module.named_modules():
        if is_kinked(inner) and not name.startswith(gates):
            return name, type(inner).__name__
    return None


def is_kinked(module: nn.Module) -> bool:
    """Whether a module itself, not what is in it, has a derivative that jumps. The maximum over a window jumps like ReLU:
    where another pixel becomes the largest, the gradient goes elsewhere."""
    names = _names(module)
    if isinstance(module, nn.ELU) and module.alpha != 1:
        return True
    return bool(names & KINKED) or any("maxpool" in name or "avgmax" in name for name in names)


def _names(module: nn.Module) -> set[str]:
    return {kind.__name__.lower().removesuffix("me") for kind in type(module).__mro__}
