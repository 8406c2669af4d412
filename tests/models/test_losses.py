"""The contrastive loss against numpy, and its derivatives."""

import numpy as np
import pytest
import torch
from torch import Tensor

from vldd_dist.models.losses import contrastive_loss


def pairs(seed: int = 0, count: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """Image features, text features (count, 7) and positive similarities, float64."""
    generator = np.random.default_rng(seed)
    image, text = generator.normal(size=(2, count, 7))
    return torch.from_numpy(image), torch.from_numpy(text), torch.from_numpy(generator.uniform(0.1, 1, (count, count)))


def slow_loss(image: np.ndarray, text: np.ndarray, targets: np.ndarray, temperature: float) -> float:
    """The loss by its definition, one query at a time."""
    unit_image, unit_text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text))
    logits = unit_image @ unit_text.T / temperature
    losses = []
    for scores, wanted in ((logits, targets), (logits.T, targets.T)):
        rows = [
            -(row_wanted / row_wanted.sum()) @ (row - np.log(np.exp(row).sum()))
            for row, row_wanted in zip(scores, wanted, strict=True)
        ]
        losses.append(float(np.mean(rows)))
    return sum(losses) / 2


def test_the_loss_is_the_definition() -> None:
    image, text, similarity = pairs()
    own = slow_loss(image.numpy(), text.numpy(), np.eye(5), 0.07)
    assert float(contrastive_loss(image, text, 0.07)) == pytest.approx(own)
    assert float(contrastive_loss(image, text, 0.07, 3 * torch.eye(5).double())) == pytest.approx(own)
    soft = slow_loss(image.numpy(), text.numpy(), similarity.numpy(), 0.07)
    assert float(contrastive_loss(image, text, 0.07, similarity)) == pytest.approx(soft)


def test_the_norm_of_features_does_not_matter() -> None:
    image, text, _ = pairs()
    torch.testing.assert_close(contrastive_loss(5 * image, text / 3, 0.07), contrastive_loss(image, text, 0.07))


@pytest.mark.parametrize("soft", [False, True])
def test_first_second_and_forward_derivatives(soft: bool) -> None:
    inputs = [tensor.requires_grad_() for tensor in pairs(count=3)[: 3 if soft else 2]]

    def loss(image: Tensor, text: Tensor, similarity: Tensor | None = None) -> Tensor:
        return contrastive_loss(image, text, 0.5, similarity)

    assert torch.autograd.gradcheck(loss, inputs, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(loss, inputs)
