"""The student on several ranks: the protocols of `unroll` on shards.

Theta, the snapshots, the adjoint and the expert's snapshots are lists of this rank's shards (n,), one for each parameter. A
batch is this rank's rows of an inner step's pairs, followed by the shared tensors.

Every rank encodes its rows; the features are gathered; each rank computes the same loss over all rows and takes 1/world_size of
it as its share, so that the loss is the sum of the shares. The collectives have true adjoints, so every derivative is the sum
of the derivatives of the shares (docs/decisions.md). The gradient of a row is already that sum, because a row lies on one rank.
Of the gradient of a shared tensor each rank has its share, and one all-reduce after the sweep sums them.
"""

import copy
from typing import Self

import torch
from torch import Tensor

from vldd_dist.distillation.student.student import BatchLayout, StepInputs
from vldd_dist.distillation.unroll import DoubleBackward, StepGradient, StepProducts, Tensors
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
        engine: the dual encoder on the ranks, with its parameters in the order of theta.
        model: the dual encoder that `engine` was made of; it gathers rows.

    Attributes:
        step_inputs: what the student's steps take; of fixed tensors this rank's rows. `blend` mixes the features of all rows.
    """

    def __init__(self, engine: ShardedModel, model: DualEncoder, loss: Loss, ranks: Ranks) -> None:
        self.engine, self.model, self.layout, self.ranks = engine, model, BatchLayout(loss), ranks
        self.step_inputs = StepInputs()

    def with_inputs(self, step_inputs: StepInputs) -> Self:
        """The first derivatives of the same student, whose steps take these inputs."""
        first_order = copy.copy(self)
        first_order.step_inputs = step_inputs
        return first_order

    def gradients(
        self, theta: Tensors, batch: Tensors, step: int, *, of_theta: bool = True, of_batch: bool = True
    ) -> tuple[list[Tensor], list[Tensor]]:
        """See `unroll.FirstOrder`. The engine computes the gradient of theta in any case."""
        self.engine.write(theta)
        with torch.enable_grad(), replayed_randomness(self.step_inputs.seed, step, batch[0].device):
            batch_leaves = [tensor.detach().requires_grad_(of_batch) for tensor in batch]
            inputs, texts, *learned = self.step_inputs.batch(batch_leaves, step)
            features = self.engine(inputs, texts, self.step_inputs.mix(step))
            gradient = self.engine.backward(self.loss_share(features, learned, self.model))
        batch_gradient = [
            torch.zeros_like(tensor) if tensor.grad is None else tensor.grad for tensor in batch_leaves if of_batch
        ]
        return gradient if of_theta else [], batch_gradient

    def loss_share(self, features: tuple[Tensor, Tensor], learned: Tensors, model: DualEncoder) -> Tensor:
        """This rank's share of the loss, from the features of all rows."""
        return self.layout.loss_of(features, learned, model) / self.ranks.world_size

    def inner_products(self, a: Tensors, b: Tensors) -> Tensor:
        return self.engine.layout.inner_products(a, b)


class ShardedDoubleBackward:
    """Implements `unroll.StepDerivatives` exactly. During the second pass of a step each rank holds the unsharded parameters.

    An engine that gathers parameters in hooks cannot be differentiated twice. So the pass runs on a skeleton of the model's
    modules, which gets all its tensors as arguments.

    Args:
        skeleton: the skeleton of the same model.
    """

    def __init__(self, first_order: ShardedFirstOrder, skeleton: Skeleton) -> None:
        self.first_order, self.skeleton = first_order, skeleton

    def gradient(self, theta: Tensors, batch: Tensors, step: int, last: bool) -> StepGradient:
        gradient, _ = self.first_order.gradients(theta, batch, step, of_batch=False)
        return StepGradient(gradient)

    def products(
        self, theta: Tensors, batch: Tensors, step: int, v: Tensors, first: StepGradient | None, with_theta: bool
    ) -> StepProducts:
        layout = self.first_order.engine.layout
        local = DoubleBackward(_LossShare(self.skeleton, self.first_order))
        with self.skeleton.with_frozen(self.first_order.engine):
            products = local.products(layout.gather(theta), batch, step, layout.gather(v), None, with_theta=True)
        return StepProducts(
            layout.scatter_sum(products.theta) if with_theta and products.theta is not None else None,
            products.batch,
            layout.scatter_sum(products.gradient),
        )

    def inner_products(self, a: Tensors, b: Tensors) -> Tensor:
        return self.first_order.inner_products(a, b)


class _LossShare:
    """A rank's share of the student's loss, as an `unroll.StudentLoss` of the unsharded parameters."""

    def __init__(self, skeleton: Skeleton, first_order: ShardedFirstOrder) -> None:
        self.skeleton, self.first_order, self.step_inputs = skeleton, first_order, first_order.step_inputs

    @property
    def seed(self) -> int:
        return self.step_inputs.seed

    def loss(self, theta: Tensors, batch: Tensors, step: int) -> Tensor:
        inputs, texts, *learned = self.step_inputs.batch(batch, step)
        features = call(self.skeleton.model, self.skeleton.view, theta, inputs, texts, self.step_inputs.mix(step))
        return self.first_order.loss_share(features, learned, self.skeleton.model)
