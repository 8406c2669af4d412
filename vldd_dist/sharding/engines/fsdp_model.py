"""A model partitioned over the ranks by torch's FSDP2 (`fully_shard`).

torch's module is imported when a model is sharded: with sympy, which it needs, that takes a second.
"""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh

from vldd_dist.errors import ConfigError
from vldd_dist.sharding.engines.blocks import blocks_of
from vldd_dist.sharding.engines.optimisers import momentum_of, parameters_of
from vldd_dist.sharding.layout import Layout
from vldd_dist.sharding.ranks import Ranks

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule


def require_fsdp() -> None:
    """Raises ConfigError if torch is too old: its FSDP2 must be able to sum gradients with gloo."""
    from torch.distributed.fsdp import FSDPModule

    if not hasattr(FSDPModule, "set_force_sum_reduction_for_comms"):
        raise ConfigError(f"sharding: fsdp needs a newer torch than {torch.__version__}: update it, or choose zero3")


class FsdpModel:
    """See `sharded_model.ShardedModel`. Parameters are cut along their first dimension, so a rank holds some rows of each.

    Each of the network's blocks is gathered for its own forward and backward pass. Parameters outside of blocks stay gathered
    from the start of the forward pass to the end of the backward pass. Parameters without dimensions, which FSDP cannot cut,
    are replicated, and rank 0 owns them.

    Attributes:
        held: this rank's part of each trainable parameter: (rows, ...), or () for one without dimensions. The optimiser updates
            these tensors, which share their memory with FSDP's.
    """

    in_shards = True

    def __init__(self, model: nn.Module, optimiser: torch.optim.Optimizer, ranks: Ranks) -> None:
        trainable = parameters_of(optimiser)
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        self.layout = Layout.by_rows(ranks, [parameter.shape for parameter in trainable])
        self.model, self.optimiser, self.ranks = model, optimiser, ranks
        # FSDP warns when a module returns a view, because writing into it is not safe. Nothing writes into the model's outputs.
        warnings.filterwarnings("ignore", rf"FSDP2-wrapped module \(FSDP{type(model).__name__}\) returned a view", UserWarning)
        self._root = _shard(model, ranks)
        # Looked up now, because later FSDP swaps a module's parameters for gathered ones and back.
        self._by_name = dict(model.named_parameters())
        self.parameters = [self._by_name[names[id(parameter)]] for parameter in trainable]
        self.held = [nn.Parameter(_local(parameter)) for parameter in self.parameters]
        # The optimiser gets plain tensors, on which a step is a few fused operations.
        held = iter(self.held)
        for group in optimiser.param_groups:
            group["params"] = [next(held) for _ in group["params"]]

    def __call__(self, *inputs: Any) -> Any:
        return self.model(*inputs)

    @torch.no_grad()
    def write(self, shards: Sequence[Tensor]) -> None:
        # After a forward pass without a backward pass, parameters outside of blocks are still gathered.
        self._root.reshard()
        for held, value in zip(self.held, self._as_held(shards), strict=True):
            held.copy_(value)

    def read(self) -> list[Tensor]:
        return [shard.clone() for shard in self._as_shards([held.detach() for held in self.held])]

    def read_momentum(self) -> list[Tensor]:
        buffers = momentum_of(self.optimiser, self.held)
        return [shard.clone() for shard in self._as_shards(buffers)] if buffers else []

    def write_momentum(self, shards: Sequence[Tensor]) -> None:
        if not shards:
            return
        for held, value in zip(self.held, self._as_held(shards), strict=True):
            self.optimiser.state[held]["momentum_buffer"] = value.clone()

    def backward(self, partial_loss: Tensor) -> list[Tensor]:
        partial_loss.backward()
        return self._as_shards(self._gradients())

    def step(self, partial_loss: Tensor) -> None:
        partial_loss.backward()
        for held, gradient in zip(self.held, self._gradients(), strict=True):
            held.grad = gradient
        self.optimiser.step()
        self.optimiser.zero_grad()

    def whole(self, name: str) -> Tensor:
        parameter = self._by_name[name]
        if parameter.dim() == 0:
            return parameter.detach()
        return Layout.by_rows(self.ranks, [parameter.shape]).gather([_local(parameter).reshape(-1)])[0]

    @torch.no_grad()
    def _gradients(self) -> list[Tensor]:
        """This rank's part of the gradient of the whole loss, in the shapes of `held`."""
        gradients = [torch.zeros_like(h) if p.grad is None else _local(p.grad) for p, h in self._pairs()]
        for parameter in self.parameters:
            parameter.grad = None
        return self._summed_scalars(gradients)

    def _pairs(self) -> list[tuple[nn.Parameter, nn.Parameter]]:
        return list(zip(self.parameters, self.held, strict=True))

    def _as_shards(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Views (n,) of the elements that this rank owns, from tensors in the shapes of `held`."""
        owned = (stop - start for start, stop in self.layout.own)
        return [tensor.reshape(-1)[:length] for tensor, length in zip(tensors, owned, strict=True)]

    def _as_held(self, shards: Sequence[Tensor]) -> list[Tensor]:
        """The inverse of `_as_shards`."""
        return self._summed_scalars(
            [
                shard.view(held.shape) if len(shard) == held.numel() else shard.new_zeros(held.shape)
                for shard, held in zip(shards, self.held, strict=True)
            ]
        )

    def _summed_scalars(self, tensors: list[Tensor]) -> list[Tensor]:
        """Replace the tensors without dimensions by their sums over the ranks."""
        places = [place for place, tensor in enumerate(tensors) if tensor.dim() == 0]
        if places:
            sums = self.ranks.sum_in_place(torch.stack([tensors[place] for place in places]))
            for place, value in zip(places, sums, strict=True):
                tensors[place] = value
        return tensors


def _shard(model: nn.Module, ranks: Ranks) -> "FSDPModule":
    """Shard the parameters of the model's blocks, then all others. Gradients are summed over the ranks, not averaged. Returns
    the model."""
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(next(model.parameters()).device.type, (ranks.world_size,))
    replicated = {parameter for parameter in model.parameters() if parameter.dim() == 0}
    for module in (*blocks_of(model), model):
        sharded = fully_shard(module, mesh=mesh, ignored_params=replicated)
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)
    return sharded


def _local(tensor: Tensor) -> Tensor:
    """A view of this rank's rows of a distributed tensor; any other tensor itself."""
    from torch.distributed.tensor import DTensor

    tensor = tensor.detach()
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
