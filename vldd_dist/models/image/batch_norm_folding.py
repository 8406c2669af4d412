"""Batch norm in evaluation mode is an affine map with constant coefficients: folded into the convolution before it, it costs
nothing (Jacob et al. 1712.05877, 3.2)."""

from collections import Counter
from typing import Any

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from vldd_dist.models import _torchvision  # noqa: F401  (before timm)

from timm.layers import BatchNormAct2d, Conv2dSame  # isort: skip

# Exactly these: a subclass may compute something else (a convolution with standardised weights).
CONVOLUTIONS = (nn.Conv2d, Conv2dSame)
NORMS = (nn.BatchNorm2d, BatchNormAct2d)


@torch.no_grad()
def fold_batch_norms(backbone: nn.Module) -> None:
    """Replace, in place, each convolution that a batch norm follows by one that does both, and the batch norm by what it holds
    beside the norm: nothing, or an activation (timm's BatchNormAct2d).

    Only where the result is certainly the same: nothing else sees the convolution's output, and neither layer runs twice or
    lends its parameters. A backbone whose forward pass cannot be followed without numbers (it branches on shapes) stays as it
    is.

    Args:
        backbone: in evaluation mode. Its parameters and buffers are not written to, but replaced.
    """
    for convolution_name, norm_name in _foldable(backbone):
        convolution: Any = backbone.get_submodule(convolution_name)
        norm: Any = backbone.get_submodule(norm_name)
        convolution.weight, convolution.bias = fuse_conv_bn_weights(
            convolution.weight, convolution.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        rest = nn.Sequential(norm.drop, norm.act) if isinstance(norm, BatchNormAct2d) else nn.Identity()
        parent, _, leaf = norm_name.rpartition(".")
        setattr(backbone.get_submodule(parent), leaf, rest)


class _Tracer(fx.Tracer):
    """Follows the forward pass down to convolutions and norms, which it does not enter."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, (*CONVOLUTIONS, *NORMS)) or super().is_leaf_module(m, module_qualified_name)


def _foldable(backbone: nn.Module) -> list[tuple[str, str]]:
    """Names of a convolution and the norm that follows it."""
    modules = dict(backbone.named_modules())
    if not any(type(module) in NORMS for module in modules.values()):
        return []
    try:
        nodes = list(_Tracer().trace(backbone).nodes)
    except Exception:
        # A model's own code that meets stand-ins for tensors can fail in any way.
        return []
    calls = Counter(node.target for node in nodes if node.op == "call_module")
    lent = [node.target for node in nodes if node.op == "get_attr"]

    def runs_once(node: Any, kinds: tuple[type[nn.Module], ...]) -> bool:
        return (
            isinstance(node, fx.Node)
            and node.op == "call_module"
            and type(modules[str(node.target)]) in kinds
            and calls[node.target] == 1
            and not any(str(name).startswith(f"{node.target}.") for name in lent)
        )

    return [
        (str(node.args[0].target), str(node.target))
        for node in nodes
        if runs_once(node, NORMS)
        and runs_once(node.args[0], CONVOLUTIONS)
        and len(node.args[0].users) == 1
        and modules[str(node.target)].running_mean is not None
    ]
