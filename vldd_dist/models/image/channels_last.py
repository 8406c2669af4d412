"""Which backbones are faster on images in channels-last layout."""

import torch
from torch import Tensor, nn

# Measured, see benchmarks/results/frozen_step.md.
GAINING_SHARE = 0.75


@torch.no_grad()
def gains_from_channels_last(backbone: nn.Module, images: Tensor) -> bool:
    """Whether dense and depthwise convolutions do three quarters of the backbone's multiplications, on a CPU.

    No time is measured here: the layout changes the last bits of the results, so for a resumed run to end in the same bits it
    is a function of the model and the images' size alone. On GPUs, which were not measured, the layout stays as it is.

    Args:
        images: (B, 3, H, W), of which only the size counts.
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
