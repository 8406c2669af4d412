"""A device that is none: code that mixes its tensors with those of the CPU fails there as on a GPU, and nothing is computed.

Tensors "on" it are torch's FakeTensors on the meta device, whose operations refuse tensors of two devices. What lies on the CPU
alone is computed: indices, draws, sizes. A value that is read from the device (`item`, `tolist`, `bool`) is 0.5, 1 or true.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_iter

DEVICE = torch.device("meta")
NO_KEYWORDS: Mapping[str, Any] = MappingProxyType({})


class _Mode(FakeTensorMode):
    def dispatch(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] = NO_KEYWORDS
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and isinstance(args[0], FakeTensor):
            return 0.5 if args[0].dtype.is_floating_point else args[0].dtype == torch.bool or 1
        if any(map(_is_there, tree_iter((args, dict(kwargs or {}))))):
            return super().dispatch(func, types, args, dict(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _is_there(value: Any) -> bool:
    return isinstance(value, FakeTensor) or (isinstance(value, torch.device) and value == DEVICE)


def pretended_device() -> AbstractContextManager[Any]:
    """Within the `with` block `DEVICE` is pretended."""
    return _Mode(allow_non_fake_inputs=True)


def put_there(module: nn.Module) -> None:
    """Put a module on the device, in a `pretended_device` block; `Module.to` would want to keep its parameters' identity."""
    for inner in module.modules():
        for name, parameter in inner.named_parameters(recurse=False):
            inner._parameters[name] = nn.Parameter(torch.empty_like(parameter, device=DEVICE), parameter.requires_grad)
        for name, buffer in inner.named_buffers(recurse=False):
            inner._buffers[name] = torch.empty_like(buffer, device=DEVICE)
