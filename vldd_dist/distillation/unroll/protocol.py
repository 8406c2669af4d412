"""What the unroll asks of a student, and what it gives back."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

Params = Sequence[Tensor]
# theta_T -> (towers,) terms of the outer loss, differentiable; the loss is their sum.
OuterLoss = Callable[[Params], Tensor]


class InnerProblem(Protocol):
    """A student: a differentiable loss of its parameters and a batch.

    Attributes:
        towers: for each parameter tensor the index of its tower, and so of its learning rate.
        seed: of the dropout masks; step t's masks derive from (seed, t), whoever evaluates the loss.
    """

    @property
    def towers(self) -> Sequence[int]: ...

    @property
    def seed(self) -> int: ...

    def loss(self, theta: Params, batch: Params, step: int) -> Tensor:
        """The scalar loss of a batch at theta: the step's own tensors, then the tensors that all steps share."""
        ...


class Sgd(NamedTuple):
    """How the student steps: velocity <- momentum * velocity + g + weight_decay * theta; theta <- theta - rate * velocity.

    Attributes:
        skip: so many of the first steps are taken without being differentiated: the gradient is that of the steps after them,
            their start held fixed (truncated back-propagation).
    """

    momentum: float = 0.0
    weight_decay: float = 0.0
    skip: int = 0

    @property
    def is_plain(self) -> bool:
        """Whether a step is the rate times the gradient."""
        return self.momentum == self.weight_decay == 0


PLAIN = Sgd()


@dataclass(frozen=True)
class StepGradient:
    """First derivatives of one inner step.

    Attributes:
        theta: g(th, b).
        batch: grad_b of the loss, where `products` will need it.
        leaves: theta and batch at the ends of the graph that `theta` still carries; none when it carries none.
    """

    theta: Params
    batch: Params | None = None
    leaves: tuple[Params, Params] | None = None


@dataclass(frozen=True)
class StepProducts:
    """Second derivatives of one inner step along a direction v.

    Attributes:
        theta: grad_th <g, v>; none when not asked for.
        batch: grad_b <g, v>.
        gradient: g itself, a by-product.
    """

    theta: Params | None
    batch: Params
    gradient: Params


class StepDerivatives(Protocol):
    """One way to differentiate an inner step; a sharded engine implements it over its shards."""

    def gradient(self, theta: Params, batch: Params, step: int, last: bool) -> StepGradient:
        """g(theta, batch). `last`: this step's products come next, so its graph may be kept for them."""
        ...

    def products(
        self, theta: Params, batch: Params, step: int, v: Params, first: StepGradient | None, with_theta: bool
    ) -> StepProducts:
        """The products with v.

        `first` is what `gradient` returned: as it was for the last step; of earlier steps only if it holds `batch`, and
        then with `theta` recovered from the step it made, up to rounding.
        """
        ...

    def inner_products(self, a: Params, b: Params) -> Tensor:
        """(len(a),) inner products, tensor by tensor, of two vectors laid out as theta (one all-reduce where they are
        shards)."""
        ...


class FirstOrder(Protocol):
    """A student of which only first derivatives are to be had, as from an engine that shards its parameters."""

    def gradients(
        self, theta: Params, batch: Params, step: int, *, of_theta: bool = True, of_batch: bool = True
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The loss's gradients of theta and of the batch by one ordinary forward and backward pass; an empty list where not
        asked for."""
        ...

    def inner_products(self, a: Params, b: Params) -> Tensor:
        """As `StepDerivatives.inner_products`; of vectors laid out as a batch too."""
        ...


class Passes(Protocol):
    """A student's passes, from which a `Gradient` makes its step derivatives: whole on one process, or on several ranks."""

    def first_order(self) -> FirstOrder: ...

    def second_order(self) -> StepDerivatives:
        """By double backward."""
        ...


@dataclass(frozen=True)
class Gradient:
    """One way to differentiate the unroll.

    Attributes:
        derivatives: (passes, difference scheme, relative epsilon) -> an inner step's derivatives for the sweep; none: no
            sweep, one autograd graph over all steps, on one process.
        update_adjoint: whether the sweep updates the adjoint from step to step.
        first_order_only: no second derivative is taken: any kernel and any sharding will do, but activations must be smooth,
            and the result is checked against `exact`.
    """

    derivatives: Callable[[Passes, str, float | None], StepDerivatives] | None
    update_adjoint: bool = True
    first_order_only: bool = False


@dataclass(frozen=True)
class UnrollResult:
    """The outer loss and its gradients.

    Attributes:
        terms: (towers,) the outer loss, tower by tower.
        batches: for each inner step that is differentiated the gradient of each tensor of its batch.
        rates: (towers,) the gradient of the inner learning rates.
        shared: the gradient of each tensor that enters every inner step, summed over the steps.
    """

    terms: Tensor
    batches: list[Params]
    rates: Tensor
    shared: Params = ()


@contextlib.contextmanager
def replayed_randomness(seed: int, step: int, device: torch.device) -> Iterator[None]:
    """Every evaluation of inner step t draws the same dropout masks, and leaves the global generators as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed((seed * 1_000_003 + step) % 2**63)
        yield


def step_loss(problem: InnerProblem, theta: Params, batch: Params, step: int) -> Tensor:
    """The student's loss with the masks of its step."""
    with replayed_randomness(problem.seed, step, batch[0].device):
        return problem.loss(theta, batch, step)


def inner_products(a: Params, b: Params) -> Tensor:
    """(len(a),) inner products, tensor by tensor, of vectors that are whole here."""
    return torch.stack([torch.dot(x.flatten(), y.flatten()) for x, y in zip(a, b, strict=True)])


def leaves(tensors: Params) -> list[Tensor]:
    """The same values as fresh leaves of a graph."""
    return [tensor.detach().requires_grad_() for tensor in tensors]
