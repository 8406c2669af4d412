"""Models on several ranks: replicated on each, or partitioned by DeepSpeed ZeRO or torch's FSDP2.

All implementations have a `layout` that says which elements of the trainable parameters each rank holds. Parameters are
written and read as shards of that layout, and gradients are returned as such shards, summed over the ranks. Each rank
computes a partial loss; the whole loss is the sum of the partial losses of all ranks.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from vldd_dist.config.base import Sharding
from vldd_dist.sharding.engines.deepspeed_engine import require_deepspeed
from vldd_dist.sharding.engines.replicas import Replicas
from vldd_dist.sharding.engines.zero_model import ZeroModel
from vldd_dist.sharding.layout import Layout
from vldd_dist.sharding.ranks import Ranks


class ShardedModel(Protocol):
    """A model on several ranks, each of which holds its shards of the model, or a replica.

    Attributes:
        layout: layout of the trainable parameters, in the order of the optimiser's groups.
        in_shards: whether a rank holds only its shards of the parameters between passes.
    """

    @property
    def layout(self) -> Layout: ...

    @property
    def in_shards(self) -> bool: ...

    def __call__(self, *inputs: Any) -> Any:
        """The model's outputs with the parameters that were written last."""
        ...

    def write(self, shards: Sequence[Tensor]) -> None:
        """Set the trainable parameters; each rank gives its shards."""
        ...

    def read(self) -> list[Tensor]:
        """Copies of this rank's shards of the trainable parameters."""
        ...

    def read_momentum(self) -> list[Tensor]:
        """Copies of this rank's shards of SGD's momentum; empty without momentum or before the first step."""
        ...

    def write_momentum(self, shards: Sequence[Tensor]) -> None:
        """Set the momentum to what `read_momentum` returned."""
        ...

    def backward(self, partial_loss: Tensor) -> list[Tensor]:
        """Backpropagate this rank's partial loss. Returns this rank's shards (n,) of the gradient of the whole loss. Leaf
        inputs get the gradient of the whole loss in `.grad`, if differentiable collectives connect the partial losses."""
        ...

    def step(self, partial_loss: Tensor) -> None:
        """One step of the optimiser along the gradient of the whole loss."""
        ...

    def whole(self, name: str) -> Tensor:
        """The frozen parameter with this name, unsharded; its memory is freed with the result. All ranks must call it
        together."""
        ...


def shard_model(model: nn.Module, optimiser: torch.optim.Optimizer, sharding: Sharding, ranks: Ranks) -> ShardedModel:
    """Put a model on the ranks.

    Args:
        model: equal on all ranks, on this rank's device; it must not be used directly afterwards.
        optimiser: the optimiser of the trainable parameters, which gives their order in the layout.
        sharding: none: a replica on each rank; zero1 to zero3: partitioned by that stage of DeepSpeed's ZeRO; fsdp: partitioned
            by torch's FSDP2.

    Raises:
        ConfigError: a library that the engine needs is not installed.
    """
    if sharding == "none":
        return Replicas(model, optimiser, ranks)
    require_engine(sharding)
    if sharding == "fsdp":
        # Imported here, because distributed tensors take a while to load.
        from vldd_dist.sharding.engines.fsdp_model import FsdpModel

        return FsdpModel(model, optimiser, ranks)
    return ZeroModel(model, optimiser, int(sharding.removeprefix("zero")), ranks)


def require_engine(sharding: Sharding) -> None:
    """Raises ConfigError if the engine for this kind of sharding is not installed."""
    if sharding == "fsdp":
        from vldd_dist.sharding.engines.fsdp_model import require_fsdp

        require_fsdp()
    elif sharding != "none":
        require_deepspeed()
