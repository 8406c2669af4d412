"""Symmetric InfoNCE."""

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from vldd_dist.config.base import Rate
from vldd_dist.models.losses.base import NONE, Learned, Loss


class InfoNCE(Loss):
    """Cross-entropy of each picture among the texts and of each text among the pictures, on cosine similarities (Radford et al.
    2103.00020; Wu et al. 2308.07545, eq. 2).

    A learned temperature is a shared tensor `log_temperature` (1,): its logarithm moves, so that it stays positive.
    """

    name: str = "infonce"
    temperature: Rate = Field(0.07, description="The cosine similarities are divided by it.")
    learn_temperature: bool = Field(
        False, description="Distillation learns the temperature too, from `temperature` on; experts keep `temperature`."
    )
    lr_temperature: Annotated[float, Field(ge=0)] = Field(0.01, description="Outer learning rate of the log temperature.")

    def __call__(
        self,
        image_features: Tensor,
        text_features: Tensor,
        rows: Mapping[str, Tensor] = NONE,
        shared: Mapping[str, Tensor] = NONE,
    ) -> Tensor:
        """The mean of the image-to-text and the text-to-image cross-entropy."""
        temperature = shared["log_temperature"].exp() if "log_temperature" in shared else self.temperature
        logits = functional.normalize(image_features) @ functional.normalize(text_features).T / temperature
        own = torch.arange(len(logits), device=logits.device)
        return (functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)) / 2

    def learned_shared(self) -> dict[str, Learned]:
        if not self.learn_temperature:
            return {}
        return {"log_temperature": Learned(torch.tensor([self.temperature]).log(), self.lr_temperature)}

    def learned_numbers(self, shared: Mapping[str, Tensor]) -> dict[str, float]:
        return {"temperature": float(shared["log_temperature"].exp())} if "log_temperature" in shared else {}
