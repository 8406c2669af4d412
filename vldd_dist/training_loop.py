"""The training loop of every student that is trained on pairs: SGD, epochs, phases and the order of the pairs. The
`train_on` of a distilled set and the evaluation use it."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from vldd_dist.seeding import derive_seed, numpy_generator, seeded

# Name of the row (M,) int64 with the phase of each pair, if the pairs were learned in phases: a student is trained on the pairs
# of phase 0 for all epochs, then on those of phase 1, and so on.
PHASE = "phase"


class TrainingProtocol(Protocol):
    """The settings of training that a set's recipe and an evaluation have in common."""

    @property
    def epochs(self) -> int: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def momentum(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...


def train_epochs(
    modules: Sequence[nn.Module],
    loss_of: Callable[[Tensor], Tensor],
    update: Callable[[Tensor], None],
    phases: Sequence[Tensor],
    protocol: TrainingProtocol,
    seed: int,
    device: torch.device,
    may_go_on: Callable[[float], bool] = math.isfinite,
    fixed: Iterable[nn.Module] = (),
) -> list[float]:
    """The training loop: one phase after the other, each for all epochs, in an order that the seed and the epoch determine.

    Args:
        loss_of: function from the numbers of pairs (B,), ascending, to their loss, a scalar.
        update: makes an optimiser step on a loss.
        phases: the numbers of each phase's pairs.
        device: of the modules. The states of its random generator and of the CPU's are restored afterwards.
        may_go_on: called with the loss after each epoch; whether training goes on. On several ranks it must answer the same on
            all, because `loss_of` communicates.
        fixed: parts of the modules that stay in evaluation mode.

    Returns:
        The loss of each epoch, a mean over its pairs, and finally the loss of the last batch by the trained modules in
        evaluation mode, because the last step may be the one that diverges. The list ends early at the first loss after
        which training does not go on.
    """
    for module in modules:
        module.train()
        freeze_norm_statistics(module)
    for module in fixed:
        module.eval()
    losses: list[float] = []
    with seeded(derive_seed(seed, "student", "dropout"), device):
        for epoch in range(protocol.epochs * len(phases)):
            numbers = phases[epoch // protocol.epochs]
            order = numbers[torch.from_numpy(numpy_generator(seed, "student", epoch).permutation(len(numbers)))]
            total = torch.zeros((), device=device)
            for chosen in even_batches(order, protocol.batch_size):
                batch = chosen.sort().values
                loss = loss_of(batch)
                update(loss)
                total += loss.detach() * len(batch) / len(numbers)
            losses.append(total.item())
            if not (goes_on := may_go_on(losses[-1])):
                break
    for module in modules:
        module.eval()
    if goes_on:
        with torch.no_grad():
            losses.append(loss_of(batch).item())
    return losses


def even_batches(order: Tensor, batch_size: int) -> tuple[Tensor, ...]:
    """Cut into as few batches of at most `batch_size` as possible, whose sizes differ by at most one.

    With batches of exactly `batch_size`, the last one may have only a few pairs, hence few negatives, but weighs as much as any
    other. For students of 402 pairs with a last batch of 2, this more than halved the validation recall.
    """
    return order.tensor_split(math.ceil(len(order) / batch_size))


def sgd(parameters: Iterable[nn.Parameter], protocol: TrainingProtocol, learning_rate: float) -> torch.optim.SGD:
    """The optimiser of every student."""
    return torch.optim.SGD(parameters, lr=learning_rate, momentum=protocol.momentum, weight_decay=protocol.weight_decay)


def phases_of(phase: Tensor | None, count: int) -> list[Tensor]:
    """The numbers of each phase's pairs, in the order of training.

    Args:
        phase: (M,) int64, the phase of each pair; None: there is a single one.
        count: the number of pairs, M.
    """
    if phase is None:
        return [torch.arange(count)]
    return [(phase == number).nonzero().flatten() for number in phase.unique().tolist()]


def freeze_norm_statistics(module: nn.Module) -> None:
    """Put layers with running statistics into evaluation mode, because a trajectory has parameters but no statistics."""
    for layer in module.modules():
        if getattr(layer, "running_mean", None) is not None:
            layer.eval()
