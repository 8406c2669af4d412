"""Folds batch norms into the convolutions before them. In evaluation mode a batch norm is an affine map with constant
coefficients, so that it costs nothing once folded (Jacob et al. 1712.05877, section 3.2)."""

from collections import Counter
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from vldd_dist.models import libraries


class Layers(NamedTuple):
    """The classes that can be folded. Exactly these: a subclass may compute something else (a convolution with standardised
    weights)."""

    convolutions: tuple[type[nn.Module], ...]
    norms: tuple[type[nn.Module], ...]
    norm_with_activation: type[nn.Module]


@cache
def _layers() -> Layers:
    layers = libraries.timm().layers
    return Layers((nn.Conv2d, layers.Conv2dSame), (nn.BatchNorm2d, layers.BatchNormAct2d), layers.BatchNormAct2d)


@torch.no_grad()
def fold_batch_norms(backbone: nn.Module) -> None:
    """Fold each batch norm that follows a convolution into that convolution, in place. The batch norm is replaced by the rest
    of its module: nothing, or an activation (timm's BatchNormAct2d).

    This is done only if the result is certainly the same: nothing else reads the convolution's output, neither layer runs
    twice, and their parameters are not used elsewhere. A backbone that cannot be traced symbolically, for example because it
    branches on shapes, is not changed.

    Args:
        backbone: in evaluation mode. Its parameters and buffers are replaced, not written to.
    """
    for convolution_name, norm_name in _foldable(backbone):
        convolution: Any = backbone.get_submodule(convolution_name)
        norm: Any = backbone.get_submodule(norm_name)
        convolution.weight, convolution.bias = fuse_conv_bn_weights(
            convolution.weight, convolution.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        has_activation = type(norm) is _layers().norm_with_activation
        rest = nn.Sequential(norm.drop, norm.act) if has_activation else nn.Identity()
        parent, _, leaf = norm_name.rpartition(".")
        setattr(backbone.get_submodule(parent), leaf, rest)


class _Tracer(fx.Tracer):
    """Traces the forward pass down to convolutions and norms, which are leaves."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, (*_layers().convolutions, *_layers().norms)) or super().is_leaf_module(m, module_qualified_name)


def _foldable(backbone: nn.Module) -> list[tuple[str, str]]:
    """The names of each convolution and batch norm that can be folded."""
    modules = dict(backbone.named_modules())
    if not any(type(module) in _layers().norms for module in modules.values()):
        return []
    try:
        nodes = list(_Tracer().trace(backbone).nodes)
    except Exception:
        # The model's own code can fail in any way on the proxies that tracing passes for tensors.
        return []
    calls = Counter(node.target for node in nodes if node.op == "call_module")
    # Parameters that are read outside of their module.
    read_directly = [node.target for node in nodes if node.op == "get_attr"]

    def runs_once(node: Any, kinds: tuple[type[nn.Module], ...]) -> bool:
        return (
            isinstance(node, fx.Node)
            and node.op == "call_module"
            and type(modules[str(node.target)]) in kinds
            and calls[node.target] == 1
            and not any(str(name).startswith(f"{node.target}.") for name in read_directly)
        )

    return [
        (str(node.args[0].target), str(node.target))
        for node in nodes
        if runs_once(node, _layers().norms)
        and runs_once(node.args[0], _layers().convolutions)
        and len(node.args[0].users) == 1
        and modules[str(node.target)].running_mean is not None
    ]
