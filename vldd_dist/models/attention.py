"""Attention kernels: the fused ones have no second derivative."""

import contextlib
from collections.abc import Iterator

from torch import nn


@contextlib.contextmanager
def unfused_attention(model: nn.Module) -> Iterator[None]:
    """timm's attention written out, for as long as the context lasts.

    Set on the modules, not by torch's `sdpa_kernel`: with gradient checkpointing a forward pass runs again during the
    backward pass, when that context has ended.
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
    """timm's attention written out, for good."""
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False  # type: ignore[assignment]
