"""Training on pairs by a recipe: SGD, epochs, phases and the order of the pairs. Evaluation trains its students here too."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from vldd_dist.distilled_set.distilled import DistilledSet
from vldd_dist.distilled_set.manifest import PHASE
from vldd_dist.errors import DivergenceError
from vldd_dist.seeding import derive_seed, numpy_generator, seeded


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


def train_on(
    distilled: DistilledSet,
    image_tower: nn.Module,
    text_tower: nn.Module,
    *,
    inputs: Tensor | None = None,
    learning_rate: float | None = None,
    epochs: int | None = None,
    seed: int = 0,
) -> list[float]:
    """Train two towers in place on a distilled set by its recipe, as the students on its card were trained.

    The loss uses what distillation learned for it, such as a temperature or a similarity of the pairs. Parameters with
    `requires_grad` are trained; running statistics of batch-norm layers are not updated, because those of synthetic images
    differ from those of real ones. Both towers must be on the same device; they are left in evaluation mode.

    Args:
        image_tower: images (B, 3, H, W) float32, normalised with `distilled.recipe.mean` and `std`, -> (B, d).
        text_tower: text embeddings (B, D) float32 of the recipe's text encoder -> (B, d).
        inputs: inputs of the image tower that replace the images, a row for each pair: features (M, F) of a frozen backbone,
            which then encodes each image only once.
        learning_rate: replaces the recipe's, which was chosen for the recipe's towers.
        epochs: replaces the recipe's; if the pairs were learned in phases, the number for each phase.
        seed: of the order of the pairs and of dropout.

    Returns:
        The loss of each epoch, a mean over its pairs.

    Raises:
        DivergenceError: the loss became NaN or infinite.
        StoreError: the set's loss is not known here.
        ValueError: there is nothing to train, `epochs` is not positive, or the numbers of rows of `inputs` and of pairs differ.
    """
    if epochs is not None and epochs < 1:
        raise ValueError(f"epochs is {epochs}: give a positive number")
    images = _image_inputs(distilled, inputs)
    rows = {name: tensor for name, tensor in distilled.rows.items() if name not in ("images", "texts", PHASE)}
    recipe, loss = distilled.recipe, distilled.loss
    _materialise(image_tower, images[:1])
    _materialise(text_tower, distilled.texts[:1])
    towers = (image_tower, text_tower)
    trained = _trainable(towers)
    device, rate = trained[0].device, recipe.learning_rate if learning_rate is None else learning_rate
    shared = {name: tensor.to(device) for name, tensor in distilled.shared.items()}
    protocol = recipe if epochs is None else recipe.model_copy(update={"epochs": epochs})
    optimiser = sgd(trained, protocol, rate)
    # The towers may still hold gradients of an earlier training.
    optimiser.zero_grad()

    def loss_of(batch: Tensor) -> Tensor:
        of_batch = {name: tensor[batch].to(device) for name, tensor in rows.items()}
        image_features = image_tower(images[batch.to(images.device)].to(device))
        value: Tensor = loss(image_features, text_tower(distilled.texts[batch].to(device)), of_batch, shared)
        return value

    def update(value: Tensor) -> None:
        value.backward()
        optimiser.step()
        optimiser.zero_grad()

    phases = phases_of(distilled.rows[PHASE]) if PHASE in distilled.rows else [torch.arange(len(distilled))]
    losses = train_epochs(towers, loss_of, update, phases, protocol, seed, device)
    if not math.isfinite(losses[-1]):
        raise DivergenceError(f"the loss became {losses[-1]} at learning rate {rate:g}: give a lower learning_rate")
    return losses[:-1]


def _image_inputs(distilled: DistilledSet, inputs: Tensor | None) -> Tensor:
    """The inputs of the image tower: the images, or those that replace them. Raises ValueError for a wrong number of rows."""
    if inputs is None:
        return distilled.images
    if len(inputs) != len(distilled):
        raise ValueError(f"inputs has {len(inputs)} rows for {len(distilled)} pairs: give one row for each pair")
    return inputs


def _trainable(towers: Sequence[nn.Module]) -> list[nn.Parameter]:
    """The parameters of both towers with `requires_grad`. Raises ValueError if there is none."""
    # The towers may share parameters.
    parameters = dict.fromkeys(parameter for tower in towers for parameter in tower.parameters())
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if not trained:
        raise ValueError("neither tower has a parameter with requires_grad: there is nothing to train")
    return trained


def train_epochs(
    modules: Sequence[nn.Module],
    loss_of: Callable[[Tensor], Tensor],
    update: Callable[[Tensor], None],
    phases: Sequence[Tensor],
    protocol: TrainingProtocol,
    seed: int,
    device: torch.device,
    is_finite: Callable[[float], bool] = math.isfinite,
) -> list[float]:
    """The training loop: one phase after the other, each for all epochs, in an order that the seed and the epoch determine.

    Args:
        loss_of: function from the numbers of pairs (B,), ascending, to their loss, a scalar.
        update: makes an optimiser step on a loss.
        phases: the numbers of each phase's pairs.
        device: of the modules. The states of its random generator and of the CPU's are restored afterwards.
        is_finite: whether training may go on after an epoch with this loss; on several ranks it must answer the same on all,
            because `loss_of` communicates.

    Returns:
        The loss of each epoch, a mean over its pairs, and finally the loss of the last batch by the trained modules in
        evaluation mode, because the last step may be the one that diverges. The list ends early at the first loss that is not
        finite.
    """
    for module in modules:
        module.train()
        freeze_norm_statistics(module)
    losses: list[float] = []
    with seeded(derive_seed(seed, "student", "dropout"), device):
        for epoch in range(protocol.epochs * len(phases)):
            numbers = phases[epoch // protocol.epochs]
            order = numbers[torch.from_numpy(numpy_generator(seed, "student", epoch).permutation(len(numbers)))]
            total = torch.zeros((), device=device)
            for chosen in order.split(protocol.batch_size):
                batch = chosen.sort().values
                loss = loss_of(batch)
                update(loss)
                total += loss.detach() * len(batch) / len(numbers)
            losses.append(total.item())
            if not (finite := is_finite(losses[-1])):
                break
    for module in modules:
        module.eval()
    if finite:
        with torch.no_grad():
            losses.append(loss_of(batch).item())
    return losses


def sgd(parameters: Iterable[nn.Parameter], protocol: TrainingProtocol, learning_rate: float) -> torch.optim.SGD:
    """The optimiser of every student."""
    return torch.optim.SGD(parameters, lr=learning_rate, momentum=protocol.momentum, weight_decay=protocol.weight_decay)


def phases_of(phase: Tensor) -> list[Tensor]:
    """The numbers of each phase's pairs, in the order of training.

    Args:
        phase: (M,) int64, the phase of each pair.
    """
    return [(phase == number).nonzero().flatten() for number in phase.unique().tolist()]


def freeze_norm_statistics(module: nn.Module) -> None:
    """Put layers with running statistics into evaluation mode, because a trajectory has parameters but no statistics."""
    for layer in module.modules():
        if getattr(layer, "running_mean", None) is not None:
            layer.eval()


@torch.no_grad()
def _materialise(tower: nn.Module, example: Tensor) -> None:
    """Initialise lazy layers (`torch.nn.LazyLinear`), whose shapes depend on the input."""
    if any(is_lazy(parameter) for parameter in tower.parameters()):
        device = next(parameter.device for parameter in tower.parameters())
        tower.eval()(example.to(device))
