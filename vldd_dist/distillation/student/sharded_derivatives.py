"""The student on several ranks: the protocols of `unroll` on shards.

Theta, the snapshots, the adjoint and the expert's snapshots are lists of this rank's shards (n,), one for each parameter. A
batch is this rank's rows of an inner step's pairs, followed by the shared tensors.

Every rank encodes its rows; the features are gathered; each rank computes the same loss over all rows and takes 1/world_size of
it as its part, so that the loss is the sum of the parts. The collectives have true adjoints, so every derivative is the sum of
the derivatives of the parts (docs/decisions.md). The gradient of a row is already that sum, because a row lies on one rank. Of
the gradient of a shared tensor each rank has its part, and one all-reduce after the sweep sums them.
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
from vldd_dist.sharding.engines.sharded_model import ShardedModel
from vldd_dist.sharding.engines.skeleton import Skeleton
from vldd_dist.sharding.ranks import Ranks


class ShardedFirstOrder:
    """Implements `unroll.FirstOrder` on a model that is replicated or sharded over the ranks.

    Args:
        model: the dual encoder on the ranks, with its parameters in the order of theta.
        encoder: the dual encoder that `model` was made of; it gathers rows.

    Attributes:
        seed: seed of the dropout masks, as in `unroll.InnerProblem`.
        fixed: for each inner step, this rank's rows of the tensors that are not learned; empty if all are learned.
        blend: mixing of the features of all rows, as in `Student`.
    """

    def __init__(self, model: ShardedModel, encoder: DualEncoder, loss: Loss, ranks: Ranks) -> None:
        self.model, self.encoder, self.layout, self.ranks = model, encoder, BatchLayout(loss), ranks
        self.seed = 0
        self.fixed: Sequence[Fixed] = ()
        self.blend: Blend | None = None

    def gradients(
        self, theta: Params, batch: Params, step: int, *, of_theta: bool = True, of_batch: bool = True
    ) -> tuple[list[Tensor], list[Tensor]]:
        """See `unroll.FirstOrder`. The engine computes the gradient of theta in any case."""
        self.model.write(theta)
        with torch.enable_grad(), replayed_randomness(self.seed, step, batch[0].device):
            batch_leaves = [tensor.detach().requires_grad_(of_batch) for tensor in batch]
            inputs, texts, *learned = self.whole(batch_leaves, step)
            gradient = self.model.backward(self.part(self.model(inputs, texts, self.mix(step)), learned, self.encoder))
        batch_gradient = [
            torch.zeros_like(tensor) if tensor.grad is None else tensor.grad for tensor in batch_leaves if of_batch
        ]
        return gradient if of_theta else [], batch_gradient

    def whole(self, batch: Params, step: int) -> list[Tensor]:
        """The batch of an inner step, with its fixed tensors."""
        return with_fixed(batch, self.fixed[step] if self.fixed else {})

    def mix(self, step: int) -> Mix | None:
        """The mixing function of an inner step; None if features are not mixed."""
        return self.blend.at(step) if self.blend else None

    def part(self, features: tuple[Tensor, Tensor], learned: Params, encoder: DualEncoder) -> Tensor:
        """This rank's part of the loss, from the features of all rows."""
        return self.layout.loss_of(features, learned, encoder) / self.ranks.world_size

    def inner_products(self, a: Params, b: Params) -> Tensor:
        return self.model.layout.inner_products(a, b)


class ShardedDoubleBackward:
    """Implements `unroll.StepDerivatives` exactly. During the second pass of a step each rank holds the unsharded parameters.

    An engine that gathers parameters in hooks cannot be differentiated twice. So the pass runs on a skeleton of the model's
    modules, which gets all its tensors as arguments.

    Args:
        skeleton: the skeleton of the same model.
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
            products = local.products(layout.gather(theta), batch, step, layout.gather(v), None, with_theta=True)
        return StepProducts(
            layout.scatter_sum(products.theta) if with_theta and products.theta is not None else None,
            products.batch,
            layout.scatter_sum(products.gradient),
        )

    def inner_products(self, a: Params, b: Params) -> Tensor:
        return self.first_order.inner_products(a, b)


class _LossPart:
    """A rank's part of the student's loss, as an `unroll.InnerProblem` of the unsharded parameters."""

    def __init__(self, skeleton: Skeleton, first_order: ShardedFirstOrder) -> None:
        self.skeleton, self.first_order, self.seed = skeleton, first_order, first_order.seed

    def loss(self, theta: Params, batch: Params, step: int) -> Tensor:
        inputs, texts, *learned = self.first_order.whole(batch, step)
        features = call(self.skeleton.model, self.skeleton.view, theta, inputs, texts, self.first_order.mix(step))
        return self.first_order.part(features, learned, self.skeleton.model)
