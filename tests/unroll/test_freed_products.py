"""The sweep frees the products of a step before the next step builds its graph."""

import weakref

import torch
from torch import Tensor

from vldd_dist.distillation.unroll.protocol import StepGradient, StepProducts, Tensors, Unroll
from vldd_dist.distillation.unroll.sweep import swept_gradient


class WatchedQuadratic:
    """g = th - b - s for a shared tensor s, and weak references to the products that it returned last."""

    def __init__(self) -> None:
        self.returned: list[weakref.ref[Tensor]] = []

    def gradient(self, theta: Tensors, batch: Tensors, step: int, last: bool) -> StepGradient:
        return StepGradient([theta[0] - batch[0] - batch[1]])

    def products(
        self, theta: Tensors, batch: Tensors, step: int, v: Tensors, first: StepGradient | None, with_theta: bool
    ) -> StepProducts:
        assert [reference for reference in self.returned if reference() is not None] == []
        products = [-v[0], -v[0]]
        self.returned = [weakref.ref(product) for product in products]
        gradient = self.gradient(theta, batch, step, last=False).theta
        return StepProducts([v[0].clone()] if with_theta else None, products, gradient)

    def inner_products(self, a: Tensors, b: Tensors) -> Tensor:
        return torch.stack([(x * y).sum() for x, y in zip(a, b, strict=True)])


def test_no_product_of_a_step_is_alive_in_the_next() -> None:
    batches = [[torch.rand(3)] for _ in range(4)]
    unroll = Unroll(
        [torch.ones(3)], torch.tensor([0.1]), batches, lambda theta: (theta[0] ** 2).sum()[None], [0], [torch.zeros(3)]
    )
    assert len(swept_gradient(unroll, WatchedQuadratic()).batch_gradients) == 4
