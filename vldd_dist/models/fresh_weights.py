"""New draws of the starting weights of a dual encoder, for objectives that start many students from one model."""

import copy

import torch
from torch import Tensor, nn

from vldd_dist.models.dual_encoder import HEADS, DualEncoder
from vldd_dist.models.image.backbone import create_backbone
from vldd_dist.seeding import derive_seed, seeded


class FreshWeights:
    """Draws those trained weights that differ between the students of the evaluation: the heads; with LoRA, the first matrices
    (A) of the adapters, while the second ones (B) start at zero; and a backbone that is trained from random weights.

    They have the distribution of those that `dual_encoder.build` draws, but not the same values for the same seed.

    Args:
        model: not yet passed to `shard_model`, which cuts its parameters.
    """

    def __init__(self, model: DualEncoder) -> None:
        adapters = (name for name, module in model.named_modules() if hasattr(module, "lora_A"))
        names = [*HEADS, *(f"{name}.lora_A" for name in adapters)]
        modules = {name: model.get_submodule(name) for name in names}
        self._modules = {
            name: _without_memory(module)
            for name, module in modules.items()
            if any(parameter.requires_grad for parameter in module.parameters())
        }
        self._image = model.image_settings

    @torch.no_grad()
    def draw(self, seed: int) -> dict[str, Tensor]:
        """The drawn parameters by their name in the model, on the CPU: they depend on the seed only, not on the device."""
        weights: dict[str, Tensor] = {}
        with seeded(seed):
            for name, module in self._modules.items():
                fresh = copy.deepcopy(module).to_empty(device="cpu")
                for part in fresh.modules():
                    if callable(reset_parameters := getattr(part, "reset_parameters", None)):
                        reset_parameters()
                weights |= dict(fresh.named_parameters(prefix=name))
        if self._image.draws_backbone:
            image, backbone_seed = self._image, derive_seed(seed, "backbone")
            backbone = create_backbone(image.model, image.model_args, pretrained=False, seed=backbone_seed)
            weights |= dict(backbone.named_parameters(prefix="image_backbone"))
        return {name: parameter.detach() for name, parameter in weights.items()}


def _without_memory(module: nn.Module) -> nn.Module:
    """A copy on the meta device."""
    empty: dict[int, Tensor] = {
        id(parameter): nn.Parameter(torch.empty_like(parameter, device="meta"), parameter.requires_grad)
        for parameter in module.parameters()
    }
    return copy.deepcopy(module, empty)
