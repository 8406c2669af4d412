"""A view of a dual encoder's trainable parameters, which trajectories hold and a student's inner steps update."""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from vldd_dist.errors import DataError
from vldd_dist.models.dual_encoder import DualEncoder

TOWERS = ("image", "text")


class ParameterView:
    """The parameters with requires_grad: first those of the image tower, then of the text tower, each sorted by name.

    Attributes:
        names: as in `model.named_parameters()`.
        towers: 0 (image) or 1 (text), for each parameter.
        tower_names: "image" or "text", for each parameter.
        count: total number of elements.
    """

    def __init__(self, model: DualEncoder) -> None:
        trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        self.names = sorted(trainable, key=lambda name: (TOWERS.index(_tower_of(name)), name))
        self.tower_names = [_tower_of(name) for name in self.names]
        self.towers = [TOWERS.index(tower) for tower in self.tower_names]
        self.parameters = [trainable[name] for name in self.names]
        self.count = sum(parameter.numel() for parameter in self.parameters)

    def parameters_of(self, tower: str) -> list[Tensor]:
        return [parameter for parameter, owner in zip(self.parameters, self.tower_names, strict=True) if owner == tower]

    def read(self) -> tuple[Tensor, ...]:
        """Copies of the parameters."""
        return tuple(parameter.detach().clone() for parameter in self.parameters)

    @torch.no_grad()
    def write(self, theta: Iterable[Tensor]) -> None:
        """Set the parameters in place, one after the other."""
        for parameter, value in zip(self.parameters, theta, strict=True):
            parameter.copy_(value)

    def as_dict(self, tower: str) -> dict[str, Tensor]:
        """One tower's parameters by name. They share the model's memory: copy or encode them before the next step."""
        owned = zip(self.names, self.parameters, self.tower_names, strict=True)
        return {name: parameter.detach() for name, parameter, owner in owned if owner == tower}

    def from_dicts(self, image: Mapping[str, Tensor], text: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """The tensors of both towers in the order of the view. Raises DataError if names or shapes are not those of this
        model."""
        for tower, tensors in zip(TOWERS, (image, text), strict=True):
            if unmatched := sorted(set(tensors) ^ set(self.as_dict(tower))):
                raise DataError(
                    f"a snapshot of the {tower} tower does not fit the model: {unmatched[0]} is in one of them only "
                    f"(one of {len(unmatched)} such parameters)"
                )
        snapshot = {**image, **text}
        for name, parameter in zip(self.names, self.parameters, strict=True):
            if snapshot[name].shape != parameter.shape:
                raise DataError(
                    f"a snapshot does not fit the model: {name} is {tuple(snapshot[name].shape)}, not {tuple(parameter.shape)}"
                )
        return tuple(snapshot[name] for name in self.names)


def call(
    model: DualEncoder,
    view: ParameterView,
    theta: Sequence[Tensor],
    inputs: Tensor,
    embeddings: Tensor,
    mix: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """The dual encoder's features, (B, d) each, with `theta` in place of its trainable parameters; `mix` as in
    `DualEncoder.forward`.

    Differentiable any number of times in theta, inputs and embeddings, also with gradient checkpointing.
    """
    if not model.recomputes:
        return torch.func.functional_call(model, dict(zip(view.names, theta, strict=True)), (inputs, embeddings, mix))
    # functional_call restores the model's own parameters on return, and the backward pass would recompute activations with
    # those. A copy of the modules, with theta in them and no tensor copied, keeps theta for as long as the graph exists.
    tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    tensors |= {id(own): value for own, value in zip(view.parameters, theta, strict=True)}
    return copy.deepcopy(model, tensors)(inputs, embeddings, mix)


def _tower_of(name: str) -> str:
    return name.partition("_")[0]
