"""The student on several ranks: `unroll`'s protocols over shards.

Theta, the snapshots, the adjoint and the expert's snapshots are lists of this rank's shards (n,), one a parameter; a batch is
this rank's rows of an inner step's pairs. Every rank encodes its rows, the rows are gathered, and each computes the same loss
over all of them: its share is 1/world of it. Collectives with true adjoints make every derivative the sum of the shares'
derivatives (docs/decisions.md).
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vldd_dist.distillation.unroll import DoubleBackward, Params, StepGradient, StepProducts
from vldd_dist.distillation.unroll.protocol import replayed_randomness
from vldd_dist.models.attention import set_unfused_attention
from vldd_dist.models.dual_encoder import DualEncoder
from vldd_dist.models.losses import contrastive_loss
from vldd_dist.models.parameters import ParameterView, call
from vldd_dist.sharding.engine import ShardedModel
from vldd_dist.sharding.ranks import Ranks


class ShardedFirstOrder:
    """Implements `unroll.FirstOrder` on a model that lies on the ranks.

    Args:
        model: a dual encoder that gathers rows, its parameters in the order of theta.

    Attributes:
        seed: of the dropout masks, as an `unroll.InnerProblem` has it.
    """

    def __init__(self, model: ShardedModel, temperature: float, ranks: Ranks) -> None:
        self.model, self.temperature, self.ranks = model, temperature, ranks
        self.seed = 0

    def gradients(
        self, theta: Params, batch: Params, step: int, *, of_theta: bool = True, of_batch: bool = True
    ) -> tuple[list[Tensor], list[Tensor]]:
        """As the protocol says; the engine makes theta's gradient in any case."""
        self.model.write(theta)
        with torch.enable_grad(), replayed_randomness(self.seed, step, batch[0].device):
            on = [tensor.detach().requires_grad_(of_batch) for tensor in batch]
            gradient = self.model.backward(self.share(self.model(*on)))
        return gradient if of_theta else [], [tensor.grad for tensor in on if tensor.grad is not None]

    def share(self, features: tuple[Tensor, Tensor]) -> Tensor:
        """This rank's share of the loss, from the features of all rows."""
        return contrastive_loss(*features, self.temperature) / self.ranks.world

    def inner_products(self, a: Params, b: Params) -> Tensor:
        return self.model.layout.inner_products(a, b)


class Skeleton:
    """A dual encoder's modules without its parameters' memory.

    Args:
        model: before it is put on the ranks; its buffers are shared.
    """

    def __init__(self, model: DualEncoder) -> None:
        self.frozen = {name: parameter for name, parameter in model.named_parameters() if not parameter.requires_grad}
        empty: dict[int, Tensor] = {
            id(parameter): nn.Parameter(torch.empty_like(parameter, device="meta"), parameter.requires_grad)
            for parameter in model.parameters()
        }
        self.model: DualEncoder = copy.deepcopy(model, empty | {id(buffer): buffer for buffer in model.buffers()})
        set_unfused_attention(self.model)
        # Those that move are replaced by theta at each call.
        self.view = ParameterView(self.model)

    def fill_frozen(self, model: ShardedModel) -> None:
        """Every parameter that does not move, from the ranks."""
        for name, source in self.frozen.items():
            self._set(name, model.whole(source))

    def empty_frozen(self) -> None:
        """Let go of them."""
        for name in self.frozen:
            self._set(name, torch.empty_like(self.model.get_parameter(name), device="meta"))

    def _set(self, name: str, value: Tensor) -> None:
        path, _, leaf = name.rpartition(".")
        setattr(self.model.get_submodule(path), leaf, nn.Parameter(value, requires_grad=False))


class ShardedDoubleBackward:
    """Implements `unroll.StepDerivatives` exactly: parameters are whole on each rank for the length of a step's second pass.

    An engine that gathers parameters in hooks has no second derivative, so the pass runs on a skeleton of the model's modules,
    which gets every tensor from outside.

    Args:
        skeleton: of the same model.
    """

    def __init__(self, first_order: ShardedFirstOrder, skeleton: Skeleton) -> None:
        self.first_order, self.skeleton = first_order, skeleton

    def gradient(self, theta: Params, batch: Params, step: int, last: bool) -> StepGradient:
        gradient, _ = self.first_order.gradients(theta, batch, step, of_batch=False)
        return StepGradient(gradient)

    def products(
        self, theta: Params, batch: Params, step: int, v: Params, first: StepGradient | None, with_theta: bool
    ) -> StepProducts:
        layout = self.first_order.model.layout
        self.skeleton.fill_frozen(self.first_order.model)
        local = DoubleBackward(_Share(self.skeleton, self.first_order))
        found = local.products(layout.gather(theta), batch, step, layout.gather(v), None, with_theta=True)
        self.skeleton.empty_frozen()
        return StepProducts(
            layout.scatter_sum(found.theta) if with_theta and found.theta is not None else None,
            found.batch,
            layout.scatter_sum(found.gradient),
        )

    def inner_products(self, a: Params, b: Params) -> Tensor:
        return self.first_order.inner_products(a, b)


class _Share:
    """A rank's share of the student's loss as an `unroll.InnerProblem` over whole parameters."""

    def __init__(self, skeleton: Skeleton, first_order: ShardedFirstOrder) -> None:
        self.skeleton, self.first_order = skeleton, first_order
        # The sweep knows the towers; here no rate is asked for.
        self.towers: Sequence[int] = []
        self.seed = first_order.seed

    def loss(self, theta: Params, batch: Params, step: int) -> Tensor:
        inputs, texts = batch
        return self.first_order.share(call(self.skeleton.model, self.skeleton.view, theta, inputs, texts))
