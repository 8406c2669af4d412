"""InfoNCE compared with numpy; its derivatives, and its learned temperature."""

import math
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from vldd_dist.models.losses.base import NONE, Loss
from vldd_dist.models.losses.infonce import InfoNCE


def pairs(seed: int = 0, count: int = 5) -> tuple[Tensor, Tensor]:
    """Image and text features (count, 7), float64."""
    image, text = np.random.default_rng(seed).normal(size=(2, count, 7))
    return torch.from_numpy(image), torch.from_numpy(text)


def slow_loss(image: np.ndarray, text: np.ndarray, temperature: float) -> float:
    """The loss by its definition, one query at a time."""
    unit_image, unit_text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text))
    logits = unit_image @ unit_text.T / temperature
    losses = [
        np.mean([-(row[own] - np.log(np.exp(row).sum())) for own, row in enumerate(scores)]) for scores in (logits, logits.T)
    ]
    return float(sum(losses)) / 2


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_the_loss_is_the_definition(temperature: float) -> None:
    image, text = pairs()
    wanted = slow_loss(image.numpy(), text.numpy(), temperature)
    assert float(InfoNCE(temperature=temperature)(image, text)) == pytest.approx(wanted)


def test_the_norm_of_features_does_not_matter() -> None:
    image, text = pairs()
    torch.testing.assert_close(InfoNCE()(5 * image, text / 3), InfoNCE()(image, text))


def test_first_second_and_forward_derivatives() -> None:
    inputs = [tensor.requires_grad_() for tensor in pairs(count=3)]
    temperature = torch.tensor([0.5], dtype=torch.float64).log().requires_grad_()

    def loss(image: Tensor, text: Tensor, logarithm: Tensor) -> Tensor:
        return InfoNCE(temperature=0.5)(image, text, shared={"log_temperature": logarithm})

    assert torch.autograd.gradcheck(loss, [*inputs, temperature], check_forward_ad=True)
    assert torch.autograd.gradgradcheck(loss, [*inputs, temperature])


def test_a_learned_temperature_starts_where_the_fixed_one_is() -> None:
    image, text = pairs()
    fixed, learning = InfoNCE(temperature=0.2), InfoNCE(temperature=0.2, learn_temperature=True, lr_temperature=0.3)
    assert fixed.learned_shared() == {}
    ((name, learned),) = learning.learned_shared().items()
    assert (name, learned.lr) == ("log_temperature", 0.3)
    assert float(learned.start) == pytest.approx(math.log(0.2))
    shared = {name: learned.start}
    torch.testing.assert_close(learning(image, text, {}, shared), fixed(image, text))
    # Real pairs come without shared tensors.
    assert torch.equal(learning(image, text), fixed(image, text))
    assert learning.learned_numbers(shared)["temperature"] == pytest.approx(0.2)
    assert fixed.learned_numbers(shared) == {}, "a tensor of an objective, under the same name"
    assert float(learning(image, text, {}, {name: learned.start + 1})) != pytest.approx(float(fixed(image, text)))


class Squares(Loss):
    """A loss without a temperature."""

    name: str = "squares"

    def __call__(
        self,
        image_features: Tensor,
        text_features: Tensor,
        rows: Mapping[str, Tensor] = NONE,
        shared: Mapping[str, Tensor] = NONE,
    ) -> Tensor:
        return (image_features - text_features).square().mean()


def test_another_temperature_is_that_of_a_loss_made_with_it() -> None:
    image, text = pairs()
    given = InfoNCE(temperature=0.2)
    assert torch.equal(given.at_temperature(0.5)(image, text), InfoNCE(temperature=0.5)(image, text))
    assert given.temperature == 0.2
    with pytest.raises(ValueError, match="learns its temperature"):
        InfoNCE(learn_temperature=True).at_temperature(0.5)
    with pytest.raises(ValueError, match="has no temperature"):
        Squares().at_temperature(0.5)
