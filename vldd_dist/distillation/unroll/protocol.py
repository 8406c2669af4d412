"""What the unroll needs from a student, and what it returns."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

# Tensors in a fixed order.
Tensors = Sequence[Tensor]
# theta_T -> (n,) differentiable terms, whose sum is the outer loss. Trajectory matching has one term per tower.
# With several ranks, theta_T is this rank's flat, possibly empty, shards. Every rank returns the same terms, with a gradient
# only to its own shards: sum parts with `Ranks.sum_of_parts`, constants with `sum_in_place`. `Unroller.loss_of_rows` makes such
# a loss of features of real rows.
OuterLoss = Callable[[Tensors], Tensor]


class StudentLoss(Protocol):
    """What the unroll needs of a student: its loss as a differentiable function of its parameters and a batch.

    Attributes:
        seed: of the dropout masks. Those of step t derive from (seed, t), so that every evaluation of the step draws the same.
    """

    @property
    def seed(self) -> int: ...

    def loss(self, theta: Tensors, batch: Tensors, step: int) -> Tensor:
        """The scalar loss at theta. `batch` holds the tensors (B, ...) of this step, then those that all steps share, of any
        shape."""
        ...


class Sgd(NamedTuple):
    """The student's optimiser: velocity <- momentum * velocity + g + weight_decay * theta; theta <- theta - rate * velocity.

    Attributes:
        skip: number of first steps that are taken but not differentiated. The gradient is that of the remaining steps from a
            fixed start (truncated back-propagation).
    """

    momentum: float = 0.0
    weight_decay: float = 0.0
    skip: int = 0

    @property
    def is_plain(self) -> bool:
        """Whether a step is the rate times the gradient, without momentum and weight decay."""
        return self.momentum == self.weight_decay == 0


PLAIN = Sgd()


@dataclass(frozen=True)
class Unroll:
    """What is differentiated: a student's steps from its start, and the outer loss of its end.

    Attributes:
        theta: theta_0.
        rates: (towers,) inner learning rates.
        batches: for each inner step its tensors.
        outer: theta_T -> (n,) terms of the outer loss.
        towers: for each tensor of theta the index of its rate.
        shared: tensors that enter the loss of every inner step, after those of its batch. Their gradient is the sum over the
            steps; if several ranks each evaluate a part of the loss, it is this rank's part of that sum.
        sgd: momentum, weight decay, and how many first steps are not differentiated. Forward differences, which keep the first
            gradient of each step, need plain SGD.
    """

    theta: Tensors
    rates: Tensor
    batches: Sequence[Tensors]
    outer: OuterLoss
    towers: Sequence[int]
    shared: Tensors = ()
    sgd: Sgd = PLAIN

    def tensors_of(self, step: int) -> list[Tensor]:
        """What `StudentLoss.loss` takes as the batch of an inner step."""
        return [*self.batches[step], *self.shared]


@dataclass(frozen=True)
class StepGradient:
    """First derivatives of one inner step.

    Attributes:
        theta: g(th, b).
        batch: grad_b loss(th, b), if `products` will need it.
        leaves: the leaves (theta, batch) of the graph that the tensors of `theta` carry; None if they carry no graph.
    """

    theta: Tensors
    batch: Tensors | None = None
    leaves: tuple[Tensors, Tensors] | None = None


@dataclass(frozen=True)
class StepProducts:
    """Second derivatives of one inner step along a direction v.

    Attributes:
        theta: grad_th <g, v>; None if it was not asked for.
        batch: grad_b <g, v>.
        gradient: g, which is computed on the way.
    """

    theta: Tensors | None
    batch: Tensors
    gradient: Tensors


class StepDerivatives(Protocol):
    """One way to differentiate an inner step. An engine that shards the parameters implements it on its shards."""

    def gradient(self, theta: Tensors, batch: Tensors, step: int, last: bool) -> StepGradient:
        """g(theta, batch). If `last`, this is the last step: its products are computed next, so its graph may be kept."""
        ...

    def products(
        self, theta: Tensors, batch: Tensors, step: int, v: Tensors, first: StepGradient | None, with_theta: bool
    ) -> StepProducts:
        """The products with v.

        Args:
            first: what `gradient` returned for this step. For the last step it is unchanged. For an earlier step it is given
                only if it holds `batch`; its `theta` is then recomputed from the snapshots, which is exact up to rounding.
            with_theta: whether the product with respect to theta is needed.
        """
        ...

    def inner_products(self, a: Tensors, b: Tensors) -> Tensor:
        """(len(a),) inner products, tensor by tensor, of two vectors laid out as theta; one all-reduce if they are sharded."""
        ...


class FirstOrder(Protocol):
    """A student that offers only first derivatives, such as an engine that shards its parameters."""

    def gradients(
        self, theta: Tensors, batch: Tensors, step: int, *, of_theta: bool = True, of_batch: bool = True
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The gradients of the loss with respect to theta and to the batch, by one forward and backward pass; an empty list for
        one that is not asked for."""
        ...

    def inner_products(self, a: Tensors, b: Tensors) -> Tensor:
        """As `StepDerivatives.inner_products`; also for vectors laid out as a batch."""
        ...


class Passes(Protocol):
    """What a `Gradient` builds its step derivatives from, for a student on one process or on several ranks."""

    def first_order(self) -> FirstOrder: ...

    def second_order(self) -> StepDerivatives:
        """By double backward."""
        ...


class DifferenceSettings(NamedTuple):
    """The settings of finite differences.

    Attributes:
        scheme: "central" (two passes a step) or "forward" (one).
        relative_epsilon: |epsilon v| / |th|; None: the scheme's default in `finite_difference.RELATIVE_EPSILONS`.
    """

    scheme: str = "central"
    relative_epsilon: float | None = None


CENTRAL = DifferenceSettings()


@dataclass(frozen=True)
class Gradient:
    """One way to differentiate the unroll.

    Attributes:
        derivatives: (passes, settings of finite differences) -> the derivatives of an inner step, for the sweep. None: one
            autograd graph over all steps instead of a sweep, on one process.
        update_adjoint: whether the sweep updates the adjoint from step to step.
        first_order_only: whether no second derivative is taken. Then any kernel and any sharding can be used, but activations
            must be smooth, and only an objective that checks the result against `exact` accepts it.
    """

    derivatives: Callable[[Passes, DifferenceSettings], StepDerivatives] | None
    update_adjoint: bool = True
    first_order_only: bool = False


@dataclass(frozen=True)
class UnrollResult:
    """The outer loss and its gradients.

    Attributes:
        terms: (n,) terms of the outer loss.
        batch_gradients: for each differentiated inner step, the gradient of each tensor of its batch.
        rate_gradients: (towers,) of the inner learning rates.
        shared_gradients: of each tensor that enters every inner step, summed over the steps.
    """

    terms: Tensor
    batch_gradients: list[Tensors]
    rate_gradients: Tensor
    shared_gradients: Tensors = ()


@contextlib.contextmanager
def replayed_randomness(seed: int, step: int, device: torch.device) -> Iterator[None]:
    """Within the `with` block, random numbers derive from (seed, step), so that each evaluation of an inner step draws the same
    dropout masks. The global generators are restored at the end."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed((seed * 1_000_003 + step) % 2**63)
        yield


def step_loss(student: StudentLoss, theta: Tensors, batch: Tensors, step: int) -> Tensor:
    """The student's loss, with the dropout masks of the step."""
    with replayed_randomness(student.seed, step, batch[0].device):
        return student.loss(theta, batch, step)


def inner_products(a: Tensors, b: Tensors) -> Tensor:
    """(len(a),) inner products, tensor by tensor, of vectors that are not sharded."""
    return torch.stack([torch.dot(x.flatten(), y.flatten()) for x, y in zip(a, b, strict=True)])


def leaves(tensors: Tensors) -> list[Tensor]:
    """The same values as new leaves of an autograd graph."""
    return [tensor.detach().requires_grad_() for tensor in tensors]
