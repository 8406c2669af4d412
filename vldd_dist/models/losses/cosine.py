"""The common part of losses on cosine similarities: a temperature, fixed or learned."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Self

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor
from torch.nn import functional

from vldd_dist.models.losses.base import NONE, Learned, Loss


class CosineLoss(Loss):
    """A loss of logits, which are cosine similarities divided by a temperature.

    A learned temperature is a shared tensor `log_temperature` (1,). Its logarithm is learned, so that it stays positive.
    """

    temperature: PositiveFloat = Field(0.07, description="The cosine similarities are divided by it.")
    learn_temperature: bool = Field(
        False, description="Distillation learns the temperature too, starting from `temperature`, which experts keep."
    )
    lr_temperature: NonNegativeFloat = Field(0.01, description="Outer learning rate of the log temperature.")

    @abstractmethod
    def of_logits(self, logits: Tensor, rows: Mapping[str, Tensor]) -> Tensor:
        """The scalar loss of logits (B, B), images by texts, for pairs with these row tensors."""

    def __call__(
        self,
        image_features: Tensor,
        text_features: Tensor,
        rows: Mapping[str, Tensor] = NONE,
        shared: Mapping[str, Tensor] = NONE,
    ) -> Tensor:
        # An objective may have learned a temperature of its own under this name.
        owned = self.own_shared(shared)
        temperature = owned["log_temperature"].exp() if "log_temperature" in owned else self.temperature
        return self.of_logits(cosines(image_features, text_features) / temperature, rows)

    def of_real_pairs(self) -> Self:
        defaults = {name: type(self).model_fields[name].default for name in ("learn_temperature", "lr_temperature")}
        return self.model_copy(update=defaults)

    def learned_shared(self) -> dict[str, Learned]:
        if not self.learn_temperature:
            return {}
        return {"log_temperature": Learned(torch.tensor([self.temperature]).log(), self.lr_temperature)}

    def learned_numbers(self, shared: Mapping[str, Tensor]) -> dict[str, float]:
        owned = self.own_shared(shared)
        return {"temperature": float(owned["log_temperature"].exp())} if "log_temperature" in owned else {}


def cosines(image_features: Tensor, text_features: Tensor) -> Tensor:
    """(B, C) cosines of features (B, d) and (C, d) of any norm."""
    return functional.normalize(image_features) @ functional.normalize(text_features).T
