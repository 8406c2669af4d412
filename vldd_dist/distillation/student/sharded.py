"""The student on several ranks: `unroll`'s protocols over shards.

Theta, the snapshots, the adjoint and the expert's snapshots are lists of this rank's shards (n,), one a parameter; a batch is
this rank's rows of an inner step's pairs, and the shared tensors. Every rank encodes its rows, the rows are gathered, and each
computes the same loss over all of them and takes 1/world of it as its part: the loss is the sum of the parts. Collectives with
true adjoints make every derivative the sum of the parts' derivatives (docs/decisions.md): of rows that sum is here, for they
lie on one rank; of a shared tensor each rank has its part, and one all-reduce after the sweep makes the sum.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from vldd_dist.distillation.student.blending import Blend, Mix
from vldd_dist.distillation.student.student import BatchLayout, Fixed, with_fixed
from vldd_dist.distillation.unroll import DoubleBackward, Params, StepGradient, StepProducts
from vldd_dist.distillation.unroll.protocol import replayed_randomness
from vldd_dist.models.dual_encoder import DualEncoder
from vldd_dist.models.losses import Loss
from vldd_dist.models.parameters import call
from vldd_dist.sharding.engine import ShardedModel
from vldd_dist.sharding.ranks import Ranks
from vldd_dist.sharding.skeleton import Skeleton


class ShardedFirstOrder:
    """Implements `unroll.FirstOrder` on a model that lies on the ranks.

    Args:
        model: a dual encoder on the ranks, its parameters in the order of theta.
        encoder: what it was made of, which gathers rows.

    Attributes:
        seed: of the dropout masks, as an `unroll.InnerProblem` has it.
        fixed: of each inner step's batch what is not learned, this rank's rows; nothing where empty.
        blend: of the features of all rows, as a `Student` has it.
    """

    def __init__(self, model: ShardedModel, encoder: DualEncoder, loss: Loss, ranks: Ranks) -> None:
        self.model, self.encoder, self.layout, self.ranks = model, encoder, BatchLayout(loss), ranks
        self.seed = 0
        self.fixed: Sequence[Fixed] = ()
        self.blend: Blend | None = None

    def gradients(
        self, theta: Params, batch: Params, step: int, *, of_theta: bool = True, of_batch: bool = True
    ) -> tuple[list[Tensor], list[Tensor]]:
        """As the protocol says; the engine makes theta's gradient in any case."""
        self.model.write(theta)
        with torch.enable_grad(), replayed_randomness(self.seed, step, batch[0].device):
            on = [tensor.detach().requires_grad_(of_batch) for tensor in batch]
            inputs, texts, *learned = self.whole(on, step)
            gradient = self.model.backward(self.part(self.model(inputs, texts, self.mix(step)), learned, self.encoder))
        of_batch_gradient = [torch.zeros_like(tensor) if tensor.grad is None else tensor.grad for tensor in on if of_batch]
        return gradient if of_theta else [], of_batch_gradient

    def whole(self, batch: Params, step: int) -> list[Tensor]:
        """An inner step's batch with what is fixed."""
        return with_fixed(batch, self.fixed[step] if self.fixed else {})

    def mix(self, step: int) -> Mix | None:
        """What an inner step does to the features of all rows."""
        return self.blend.at(step) if self.blend else None

    def part(self, features: tuple[Tensor, Tensor], learned: Params, encoder: DualEncoder) -> Tensor:
        """This rank's part of the loss, from the features of all rows."""
        return self.layout.loss_of(features, learned, encoder) / self.ranks.world_size

    def inner_products(self, a: Params, b: Params) -> Tensor:
        return self.model.layout.inner_products(a, b)


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
        local = DoubleBackward(_LossPart(self.skeleton, self.first_order))
        with self.skeleton.with_frozen(self.first_order.model):
            found = local.products(layout.gather(theta), batch, step, layout.gather(v), None, with_theta=True)
        return StepProducts(
            layout.scatter_sum(found.theta) if with_theta and found.theta is not None else None,
            found.batch,
            layout.scatter_sum(found.gradient),
        )

    def inner_products(self, a: Params, b: Params) -> Tensor:
        return self.first_order.inner_products(a, b)


class _LossPart:
    """A rank's part of the student's loss as an `unroll.InnerProblem` over whole parameters."""

    def __init__(self, skeleton: Skeleton, first_order: ShardedFirstOrder) -> None:
        self.skeleton, self.first_order = skeleton, first_order
        # The sweep knows the towers; here no rate is asked for.
        self.towers: Sequence[int] = []
        self.seed = first_order.seed

    def loss(self, theta: Params, batch: Params, step: int) -> Tensor:
        inputs, texts, *learned = self.first_order.whole(batch, step)
        features = call(self.skeleton.model, self.skeleton.view, theta, inputs, texts, self.first_order.mix(step))
        return self.first_order.part(features, learned, self.skeleton.model)
