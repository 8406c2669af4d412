"""A model partitioned over the ranks by DeepSpeed ZeRO."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from vldd_dist.sharding.engines.deepspeed_engine import make_engine
from vldd_dist.sharding.engines.optimisers import parameters_of
from vldd_dist.sharding.layout import Layout
from vldd_dist.sharding.ranks import Ranks


class ZeroModel:
    """See `sharded_model.ShardedModel`; implemented by a DeepSpeed engine.

    Args:
        stage: stage of ZeRO. 1 and 2: each rank holds all parameters, and shards of optimiser state and gradients. 3: shards of
            the parameters, too.
    """

    def __init__(self, model: nn.Module, optimiser: torch.optim.Optimizer, stage: int, ranks: Ranks) -> None:
        self.parameters, self.stage, self.ranks = parameters_of(optimiser), stage, ranks
        self.in_shards = stage == 3
        self.has_momentum = any(group.get("momentum") for group in optimiser.param_groups)
        shapes = [parameter.shape for parameter in self.parameters]
        self.model, self.engine = model, make_engine(model, optimiser, stage)
        if self.has_momentum:
            _begin_momentum(self.engine.optimizer, stage)
        if stage == 3:
            self.layout = Layout.even(ranks, shapes)
        else:
            self.layout = Layout(ranks, shapes, ranks.all_gather([_fragment(parameter) for parameter in self.parameters]))

    def __call__(self, *inputs: Any) -> Any:
        return self.engine(*inputs)

    @torch.no_grad()
    def write(self, shards: Sequence[Tensor]) -> None:
        # The values are written twice: to what the forward pass reads, and to the engine's fp32 copy, which its steps update.
        if self.stage == 3:
            # A parameter that is still gathered from the last pass would be used instead of the shard written here.
            # Not the engine's own method, which also empties the allocator of the GPU, at every pass.
            self.engine.optimizer.empty_partition_cache()
            for parameter, shard in zip(self.parameters, shards, strict=True):
                parameter.ds_tensor.view(-1)[: len(shard)] = shard  # type: ignore[attr-defined]
        else:
            for parameter, value in zip(self.parameters, self.layout.gather(shards), strict=True):
                parameter.copy_(value)
        for master, shard in zip(self._masters(), shards, strict=True):
            master.copy_(shard)

    def read(self) -> list[Tensor]:
        return [master.detach().clone() for master in self._masters()]

    def read_momentum(self) -> list[Tensor]:
        return [momentum.clone() for momentum in self._momenta()] if self.has_momentum else []

    def write_momentum(self, shards: Sequence[Tensor]) -> None:
        if not shards:
            return
        for momentum, shard in zip(self._momenta(), shards, strict=True):
            momentum.copy_(shard)

    def backward(self, partial_loss: Tensor) -> list[Tensor]:
        # The engine averages over the ranks; the gradient of the whole loss is the sum.
        self.engine.backward(partial_loss)
        gradients = [self._gradient(parameter, length) for parameter, length in self._owned()]
        self.engine.optimizer.zero_grad()
        torch._foreach_mul_(gradients, float(self.ranks.world_size))
        return gradients

    def step(self, partial_loss: Tensor) -> None:
        self.engine.backward(partial_loss * self.ranks.world_size)
        self.engine.step()

    def whole(self, name: str) -> Tensor:
        parameter: Any = self.model.get_parameter(name)
        if self.stage < 3:
            return parameter.detach()
        shape, shard = parameter.ds_shape, parameter.ds_tensor.view(-1)
        if self.ranks.world_size == 1:
            return shard[: shape.numel()].view(shape)
        flat = shard.new_empty(self.ranks.world_size * len(shard))
        dist.all_gather_into_tensor(flat, shard)
        return flat[: shape.numel()].view(shape)

    def _owned(self) -> list[tuple[Any, int]]:
        """Each parameter, with the number of its elements that this rank owns."""
        return [(p, stop - start) for p, (start, stop) in zip(self.parameters, self.layout.own, strict=True)]

    def _gradient(self, parameter: Any, length: int) -> Tensor:
        if self.stage == 3:
            from deepspeed.utils import safe_get_local_grad

            return safe_get_local_grad(parameter).view(-1)[:length].clone()
        if length == 0:
            return parameter.new_zeros(0)
        return parameter._hp_mapping.get_lp_grad_fragment(parameter._index_in_param_group).view(-1).clone()

    def _masters(self) -> list[Tensor]:
        """Views of the engine's fp32 copies of the parameters."""
        if self.stage == 3:
            return [_local(parameter, None)[:length] for parameter, length in self._owned()]
        return [p._hp_mapping.hp_fragment if length else p.new_zeros(0) for p, length in self._owned()]

    def _momenta(self) -> list[Tensor]:
        """Views of the engine's momentum."""
        if self.stage == 3:
            return [_local(p, "momentum_buffer")[:length] for p, length in self._owned()]
        return [_momentum(self.engine.optimizer, p) if length else p.new_zeros(0) for p, length in self._owned()]


def _local(parameter: nn.Parameter, key: str | None) -> Tensor:
    """A view of this rank's shard of a parameter, or of its optimiser state `key`, under ZeRO 3."""
    from deepspeed.utils import safe_get_local_fp32_param, safe_get_local_optimizer_state

    view = safe_get_local_optimizer_state(parameter, key) if key else safe_get_local_fp32_param(parameter)
    return view.view(-1)


def _momentum(optimizer: Any, parameter: Any) -> Tensor:
    """A view of this rank's shard of a parameter's momentum, under ZeRO 1 and 2."""
    mapping = parameter._hp_mapping
    flat = optimizer.single_partition_of_fp32_groups[mapping.param_group_index]
    address = mapping.hp_fragment_address
    return optimizer.optimizer.state[flat]["momentum_buffer"].narrow(0, address.start, address.numel)


def _begin_momentum(optimizer: Any, stage: int) -> None:
    """Create the momentum as zeros, so that it can be read and written before the first step. (torch's SGD creates it in the
    first step.)"""
    for flat in optimizer.fp32_partitioned_groups_flat if stage == 3 else optimizer.single_partition_of_fp32_groups:
        optimizer.optimizer.state[flat]["momentum_buffer"] = torch.zeros_like(flat)


def _fragment(parameter: nn.Parameter) -> tuple[int, int]:
    """The elements of a parameter whose gradient this rank owns under ZeRO 1 and 2."""
    mapping = parameter._hp_mapping  # type: ignore[attr-defined]
    if mapping is None:
        return 0, 0
    address = mapping.lp_fragment_address
    return address.start, address.start + address.numel
