"""Training on pairs by a recipe: SGD, epochs, phases, the order of the pairs. Evaluation has its students trained here, too."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from vldd_dist.distilled_set.distilled import DistilledSet
from vldd_dist.distilled_set.manifest import PHASE
from vldd_dist.errors import DivergenceError
from vldd_dist.seeding import derive_seed, numpy_generator


class TrainingProtocol(Protocol):
    """What a set's recipe and the settings of an evaluation have in common."""

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
    """Train two towers in place on a distilled set, as its recipe says and as the students on its card were trained.

    The loss comes with what distillation learned for it, such as a temperature or a similarity of the pairs. Parameters with
    `requires_grad` move; running statistics of batch-norm layers do not, because synthetic images have others than real ones.
    The towers are on one device, and are left in evaluation mode.

    Args:
        image_tower: images (B, 3, H, W) float32, normalised with `distilled.recipe.mean` and `std`, -> (B, d).
        text_tower: text embeddings (B, D) float32 of the recipe's text encoder -> (B, d).
        inputs: what the image tower takes in place of the images, a row for each pair: the features (M, F) by a frozen
            backbone, which then sees each image once.
        learning_rate: another than the recipe's, which was chosen for the recipe's towers.
        epochs: another number than the recipe's; of pairs learned in phases, of each phase.
        seed: of the order of the pairs and of dropout.

    Returns:
        The loss of each epoch, a mean over its pairs.

    Raises:
        DivergenceError: the loss became NaN or infinite.
        StoreError: the set's loss is none of this package.
        ValueError: there is nothing to train, or `inputs` has another number of rows than the set has pairs.
    """
    if inputs is not None and len(inputs) != len(distilled):
        raise ValueError(f"inputs has {len(inputs)} rows for {len(distilled)} pairs: give one row for each pair")
    rows = {name: tensor for name, tensor in distilled.rows.items() if name not in ("images", "texts", PHASE)}
    images, recipe, loss = distilled.images if inputs is None else inputs, distilled.recipe, distilled.loss
    _materialise(image_tower, images[:1])
    _materialise(text_tower, distilled.texts[:1])
    towers = (image_tower, text_tower)
    # A tower may share parameters with the other.
    parameters = list(dict.fromkeys(parameter for tower in towers for parameter in tower.parameters()))
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if not trained:
        raise ValueError("neither tower has a parameter with requires_grad: there is nothing to train")
    device, rate = trained[0].device, recipe.learning_rate if learning_rate is None else learning_rate
    shared = {name: tensor.to(device) for name, tensor in distilled.shared.items()}
    protocol = recipe if epochs is None else recipe.model_copy(update={"epochs": epochs})
    optimiser = sgd(trained, protocol, rate)

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


def train_epochs(
    modules: Sequence[nn.Module],
    loss_of: Callable[[Tensor], Tensor],
    update: Callable[[Tensor], None],
    phases: Sequence[Tensor],
    protocol: TrainingProtocol,
    seed: int,
    device: torch.device,
) -> list[float]:
    """The loop: on one phase after the other, each for all epochs, in an order that the seed and the epoch determine.

    Args:
        loss_of: the loss, a scalar, of the pairs with these numbers (B,), ascending.
        update: a step down that loss.
        phases: the numbers of each phase's pairs.
        device: of the modules; its generator is left as it was, and so is the CPU's.

    Returns:
        The loss of each epoch, a mean over its pairs, and, because the last step can be the one that diverges, that of the last
        batch by the trained modules in evaluation mode. It ends early with the first that is not finite.
    """
    for module in modules:
        module.train()
        freeze_norm_statistics(module)
    losses: list[float] = []
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(derive_seed(seed, "student", "dropout"))
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
            if not math.isfinite(losses[-1]):
                break
    for module in modules:
        module.eval()
    if math.isfinite(losses[-1]):
        with torch.no_grad():
            losses.append(loss_of(batch).item())
    return losses


def sgd(parameters: Iterable[nn.Parameter], protocol: TrainingProtocol, learning_rate: float) -> torch.optim.SGD:
    """The optimiser of every student."""
    return torch.optim.SGD(parameters, lr=learning_rate, momentum=protocol.momentum, weight_decay=protocol.weight_decay)


def phases_of(phase: Tensor) -> list[Tensor]:
    """The numbers of each phase's pairs, in the order in which the phases are trained on.

    Args:
        phase: (M,) int64, of each pair.
    """
    return [(phase == number).nonzero().flatten() for number in phase.unique().tolist()]


def freeze_norm_statistics(module: nn.Module) -> None:
    """Put layers with running statistics into evaluation mode, because a trajectory holds parameters but no statistics."""
    for layer in module.modules():
        if getattr(layer, "running_mean", None) is not None:
            layer.eval()


@torch.no_grad()
def _materialise(tower: nn.Module, example: Tensor) -> None:
    """Give lazy layers (`torch.nn.LazyLinear`) their shapes."""
    if any(is_lazy(parameter) for parameter in tower.parameters()):
        device = next(parameter.device for parameter in tower.parameters())
        tower.eval()(example.to(device))
