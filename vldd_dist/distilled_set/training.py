"""Training on the pairs of a distilled set by its recipe."""

import math
from collections.abc import Sequence
from numbers import Integral

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from vldd_dist.distilled_set.distilled import DistilledSet
from vldd_dist.errors import DivergenceError, first_line, is_out_of_memory
from vldd_dist.training_loop import PHASE, phases_of, sgd, train_epochs


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
    differ from those of real ones. Parts of which all parameters are frozen stay in evaluation mode if they are in it, so that
    their dropout is not active; all other dropout is. Call `train()` on such a part first if its dropout should be active, also
    before a second training. Both towers must be on the same device; they are left in evaluation mode.

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
        ValueError: there is nothing to train, there are fewer than two pairs (in a phase), `epochs` is not a positive whole
            number, `learning_rate` is not positive, a tower does not take its inputs or does not return features as above, the
            numbers of rows of `inputs` and of pairs differ, or the set has some of the tensors that its loss learned but not
            all, or of other shapes.
    """
    if epochs is not None and not (isinstance(epochs, Integral) and epochs > 0):
        raise ValueError(f"epochs is {epochs}: give a positive whole number")
    phases = phases_of(distilled.rows.get(PHASE), len(distilled))
    if (fewest := min(map(len, phases), default=0)) < 2:
        where = "a phase of the set has" if len(phases) > 1 else "the set has"
        raise ValueError(f"{where} {fewest} of the two pairs that a contrastive loss needs to compare: give two or more")
    images = _image_inputs(distilled, inputs)
    rows = {name: tensor for name, tensor in distilled.rows.items() if name not in ("images", "texts", PHASE)}
    recipe, loss = distilled.recipe, distilled.loss
    # Real pairs in place of a set's have none of these tensors. Pairs that were taken out of a set may lack columns of them.
    if not (rows.keys() | distilled.shared.keys()).isdisjoint(loss.learned_names()):
        loss.check_rows(rows, len(distilled))
        loss.check_shared(distilled.shared)
    towers = (image_tower, text_tower)
    fixed = [part for tower in towers for part in _fixed(tower)]
    _materialise("image_tower", image_tower, images[:1])
    _materialise("text_tower", text_tower, distilled.texts[:1])
    trained = _trainable(towers)
    device = trained[0].device
    rate = recipe.learning_rate if learning_rate is None else learning_rate
    if not rate > 0:
        raise ValueError(f"learning_rate is {rate}: give a positive number")
    shared = {name: tensor.to(device) for name, tensor in loss.own_shared(distilled.shared).items()}
    protocol = recipe if epochs is None else recipe.model_copy(update={"epochs": epochs})
    optimiser = sgd(trained, protocol, rate)
    # The towers may still hold gradients of an earlier training.
    optimiser.zero_grad()

    def loss_of(batch: Tensor) -> Tensor:
        of_batch = {name: tensor[batch].to(device) for name, tensor in rows.items()}
        image_features = _features("image_tower", image_tower, images[batch.to(images.device)].to(device))
        text_features = _features("text_tower", text_tower, distilled.texts[batch].to(device))
        if image_features.shape != text_features.shape:
            sizes = f"image_tower returns {image_features.shape[1]} features and text_tower {text_features.shape[1]}"
            raise ValueError(f"{sizes}: give towers with the same number of features")
        value: Tensor = loss(image_features, text_features, of_batch, shared)
        return value

    def update(value: Tensor) -> None:
        value.backward()
        optimiser.step()
        optimiser.zero_grad()

    losses = train_epochs(towers, loss_of, update, phases, protocol, seed, device, fixed=fixed)
    if not math.isfinite(losses[-1]):
        raise DivergenceError(f"the loss became {losses[-1]} at learning rate {rate:g}: give a lower learning_rate")
    return losses[:-1]


def _image_inputs(distilled: DistilledSet, inputs: Tensor | None) -> Tensor:
    """The inputs of the image tower: the images, or those that replace them. Raises ValueError for a wrong number of rows."""
    if inputs is None:
        return distilled.images
    if not isinstance(inputs, Tensor):
        raise ValueError(f"inputs is {type(inputs).__name__}: give a tensor with a row for each pair")
    if len(inputs) != len(distilled):
        raise ValueError(f"inputs has {len(inputs)} rows for {len(distilled)} pairs: give one row for each pair")
    return inputs.detach()


def _features(name: str, tower: nn.Module, inputs: Tensor) -> Tensor:
    """Features (B, d) of the inputs. Raises ValueError if the tower fails on them or returns something else."""
    given = f"{inputs.dtype} of shape {tuple(inputs.shape)} on {inputs.device}".removeprefix("torch.")
    try:
        features = tower(inputs)
    except RuntimeError as error:
        # What is wrong with the machine is not wrong with the tower.
        if is_out_of_memory(error) or "CUDA error" in str(error):
            raise
        raise ValueError(f"{name} does not take inputs of {given}: {first_line(error)}") from error
    if not isinstance(features, Tensor):
        raise ValueError(f"{name} returns {type(features).__name__} for inputs of {given}: give a module that returns a tensor")
    if features.ndim != 2 or len(features) != len(inputs):
        raise ValueError(
            f"{name} returns {tuple(features.shape)} for inputs of {given}: give one that returns ({len(inputs)}, d)"
        )
    return features


def _fixed(tower: nn.Module) -> list[nn.Module]:
    """The frozen parts of a tower that are in evaluation mode. A tower with a `train` of its own decides by itself."""
    if type(tower).train is not nn.Module.train:
        return []
    inactive = [part for part in tower.modules() if not part.training]
    return [part for part in inactive if {parameter.requires_grad for parameter in part.parameters()} == {False}]


def _trainable(towers: Sequence[nn.Module]) -> list[nn.Parameter]:
    """The parameters of both towers with `requires_grad`. Raises ValueError if there is none."""
    # The towers may share parameters.
    parameters = dict.fromkeys(parameter for tower in towers for parameter in tower.parameters())
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if not trained:
        raise ValueError("neither tower has a parameter with requires_grad: there is nothing to train")
    return trained


@torch.no_grad()
def _materialise(name: str, tower: nn.Module, example: Tensor) -> None:
    """Initialise lazy layers (`torch.nn.LazyLinear`), whose shapes depend on the input. Raises as `_features`."""
    if any(is_lazy(parameter) for parameter in tower.parameters()):
        device = next(parameter.device for parameter in tower.parameters())
        _features(name, tower.eval(), example.to(device))
