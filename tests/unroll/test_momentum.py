"""Students that step with momentum and weight decay, and steps that are not differentiated."""

import pytest
import torch
from torch import Tensor

from vldd_dist.distillation.unroll import Sgd, Tensors, Unroll, unrolled_gradient
from vldd_dist.distillation.unroll.exact import EXACT
from vldd_dist.models.losses import Loss
from vldd_dist.models.losses.wbce import WeightedBCE
from vldd_dist.testing.unroll_cases import Perceptron, ScaledInfoNCE, dual_encoder_case, flat, relative


def _squares(theta: Tensors) -> Tensor:
    return torch.stack([tensor.square().sum() for tensor in theta])


# The losses own no tensors, row tensors and a shared one, or row tensors of which one is fixed.
LOSSES = {
    "plain": None,
    "shared": ScaledInfoNCE(),
    "similarity": WeightedBCE.model_validate({"temperature": 0.07, "similarity": {"kind": "full"}}),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("sgd", [Sgd(momentum=0.9), Sgd(weight_decay=0.3), Sgd(0.9, 0.1, skip=3)], ids=str)
def test_momentum_weight_decay_and_skipped_steps_are_those_of_the_full_graph(sgd: Sgd, loss: Loss | None) -> None:
    case = dual_encoder_case(6, torch.float64, loss=loss)
    found, wanted = (case.gradient(name, sgd=sgd) for name in ("exact", "full"))
    assert len(found.batch_gradients) == len(wanted.batch_gradients) == 6 - sgd.skip
    assert relative(flat(found), flat(wanted)) < 1e-12
    torch.testing.assert_close(found.rate_gradients, wanted.rate_gradients, rtol=1e-8, atol=0)
    torch.testing.assert_close(found.shared_gradients, wanted.shared_gradients, rtol=1e-8, atol=0)
    torch.testing.assert_close(found.terms, wanted.terms)
    assert relative(flat(case.gradient("finite_difference", sgd=sgd)), flat(wanted)) < 1e-4


def test_the_steps_of_a_student_are_those_of_torchs_sgd() -> None:
    """The end of the unroll with momentum and weight decay, and its derivatives by a batch and a rate, compared with central
    differences."""
    sgd, rates = Sgd(0.9, 0.05), torch.tensor([0.1, 0.2], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((3, 4), (4, 4), (4, 2))]
    batches = [[torch.randn(5, n, generator=generator, dtype=torch.float64) for n in (3, 2)] for _ in range(4)]

    def trained(batches: list[Tensors], rates: Tensor) -> Tensor:
        theta = [tensor.clone().requires_grad_() for tensor in start]
        groups = [{"params": theta[:2], "lr": float(rates[0])}, {"params": theta[2:], "lr": float(rates[1])}]
        optimiser = torch.optim.SGD(groups, lr=1.0, momentum=sgd.momentum, weight_decay=sgd.weight_decay)
        for step, batch in enumerate(batches):
            optimiser.zero_grad()
            Perceptron().loss(theta, batch, step).backward()
            optimiser.step()
        return _squares(theta).sum().detach()

    unroll = Unroll(start, rates, batches, _squares, Perceptron.towers, sgd=sgd)
    found = unrolled_gradient(unroll, EXACT, Perceptron())
    torch.testing.assert_close(found.terms.sum(), trained(batches, rates))
    for step in range(len(batches)):
        along = torch.randn(5, 3, generator=generator, dtype=torch.float64)
        ends = []
        for sign in (1, -1):
            moved = [list(batch) for batch in batches]
            moved[step][0] = moved[step][0] + sign * 1e-6 * along
            ends.append(trained(moved, rates))
        torch.testing.assert_close(
            (found.batch_gradients[step][0] * along).sum(), (ends[0] - ends[1]) / 2e-6, rtol=1e-6, atol=1e-9
        )
    more = torch.tensor([1e-6, 0], dtype=torch.float64)
    slope = (trained(batches, rates + more) - trained(batches, rates - more)) / 2e-6
    torch.testing.assert_close(found.rate_gradients[0], slope, rtol=1e-6, atol=1e-9)
