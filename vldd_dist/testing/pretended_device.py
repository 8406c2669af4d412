"""A simulated device without computation: code that mixes its tensors with tensors on the CPU fails as it would on a GPU.

Its tensors are torch's FakeTensors on the meta device, whose operations refuse tensors of two devices. Operations on the CPU
alone (indices, draws, sizes) are computed. A value that is read from the device (`item`, `tolist`, `bool`) is 0.5, 1 or true.
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
        if any(map(_is_on_device, tree_iter((args, dict(kwargs or {}))))):
            return super().dispatch(func, types, args, dict(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _is_on_device(value: Any) -> bool:
    return isinstance(value, FakeTensor) or (isinstance(value, torch.device) and value == DEVICE)


def pretended_device() -> AbstractContextManager[Any]:
    """In the `with` block, `DEVICE` is the simulated device."""
    return _Mode(allow_non_fake_inputs=True)


def put_there(module: nn.Module) -> None:
    """Put a module on the device, in a `pretended_device` block. `Module.to` does not work, because it keeps the parameter
    objects."""
    for inner in module.modules():
        for name, parameter in inner.named_parameters(recurse=False):
            inner._parameters[name] = nn.Parameter(torch.empty_like(parameter, device=DEVICE), parameter.requires_grad)
        for name, buffer in inner.named_buffers(recurse=False):
            inner._buffers[name] = torch.empty_like(buffer, device=DEVICE)
