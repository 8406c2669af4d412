"""A model that is replicated on every rank."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vldd_dist.sharding.engines.optimisers import momentum_of, parameters_of
from vldd_dist.sharding.layout import Layout
from vldd_dist.sharding.ranks import Ranks


class Replicas:
    """See `sharded_model.ShardedModel`. Every rank holds all parameters; they are written and read in shards like those of an
    engine."""

    in_shards = False

    def __init__(self, model: nn.Module, optimiser: torch.optim.Optimizer, ranks: Ranks) -> None:
        self.model, self.optimiser, self.parameters = model, optimiser, parameters_of(optimiser)
        self.layout = Layout.even(ranks, [parameter.shape for parameter in self.parameters])

    def __call__(self, *inputs: Any) -> Any:
        return self.model(*inputs)

    @torch.no_grad()
    def write(self, shards: Sequence[Tensor]) -> None:
        for parameter, value in zip(self.parameters, self.layout.gather(shards), strict=True):
            parameter.copy_(value)

    def read(self) -> list[Tensor]:
        return [shard.clone() for shard in self.layout.cut([parameter.detach() for parameter in self.parameters])]

    def read_momentum(self) -> list[Tensor]:
        buffers = momentum_of(self.optimiser, self.parameters)
        return [shard.clone() for shard in self.layout.cut(buffers)] if buffers else []

    def write_momentum(self, shards: Sequence[Tensor]) -> None:
        if not shards:
            return
        for parameter, value in zip(self.parameters, self.layout.gather(shards), strict=True):
            self.optimiser.state[parameter]["momentum_buffer"] = value.clone()

    def backward(self, partial_loss: Tensor) -> list[Tensor]:
        partial_loss.backward()
        return self.layout.scatter_sum(self._gradients())

    def step(self, partial_loss: Tensor) -> None:
        partial_loss.backward()
        if self.layout.ranks.world_size > 1:
            self._sum_gradients()
        self.optimiser.step()
        self.optimiser.zero_grad()

    def _sum_gradients(self) -> None:
        flat = self.layout.ranks.sum_in_place(torch.cat([gradient.flatten() for gradient in self._gradients()]))
        for parameter, gradient in zip(self.parameters, flat.split([p.numel() for p in self.parameters]), strict=True):
            parameter.grad = gradient.view_as(parameter)

    def _gradients(self) -> list[Tensor]:
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        self.optimiser.zero_grad()
        return gradients

    def whole(self, name: str) -> Tensor:
        return self.model.get_parameter(name).detach()
