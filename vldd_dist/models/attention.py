"""Switching off fused attention kernels, which have no second derivative."""

import contextlib
from collections.abc import Iterator

from torch import nn


@contextlib.contextmanager
def unfused_attention(model: nn.Module) -> Iterator[None]:
    """Within the `with` block, timm's attention layers compute the scores explicitly.

    Set on the modules and not by torch's `sdpa_kernel`: with gradient checkpointing the forward pass runs again during the
    backward pass, after that context has ended.
    """
    fused = [module for module in model.modules() if getattr(module, "fused_attn", False)]
    for module in fused:
        module.fused_attn = False  # type: ignore[assignment]
    try:
        yield
    finally:
        for module in fused:
            module.fused_attn = True  # type: ignore[assignment]


def set_unfused_attention(model: nn.Module) -> None:
    """Make timm's attention layers compute the scores explicitly from now on."""
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False  # type: ignore[assignment]
