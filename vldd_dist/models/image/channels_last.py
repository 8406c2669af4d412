"""Decides which backbones are faster on images in channels-last layout."""

import torch
from torch import Tensor, nn

# Measured, see benchmarks/results/frozen_step.md.
GAINING_SHARE = 0.75


@torch.no_grad()
def gains_from_channels_last(backbone: nn.Module, images: Tensor) -> bool:
    """Whether dense and depthwise convolutions do at least three quarters of the backbone's multiplications; always False on a
    GPU, which was not measured.

    The decision depends only on the model and the size of the images, not on a time measured here: the layout changes the last
    bits of the results, and a resumed run must end in the same bits.

    Args:
        images: (B, 3, H, W); only their size and device are used.
    """
    if images.device.type not in ("cpu", "meta") or not any(isinstance(module, nn.Conv2d) for module in backbone.modules()):
        return False
    gaining = others = 0

    def count(layer: nn.Module, _: object, output: Tensor) -> None:
        nonlocal gaining, others
        if isinstance(layer, nn.Conv2d):
            products = output.numel() * layer.weight[0].numel()
            if layer.groups in (1, layer.in_channels):
                gaining += products
            else:
                others += products
        elif isinstance(layer, nn.Linear):
            others += output.numel() * layer.in_features

    hooks = [module.register_forward_hook(count) for module in backbone.modules()]
    try:
        backbone(images.new_zeros(1, *images.shape[1:]))
    finally:
        for hook in hooks:
            hook.remove()
    return gaining >= GAINING_SHARE * (gaining + others)
