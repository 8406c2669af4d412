"""Models that lie on several ranks: whole on each, or as DeepSpeed ZeRO cuts them.

Both kinds say where each element of the trainable parameters lies (`layout`), take those elements and give their gradients,
summed over the ranks, as shards of that layout. What a rank computes is its share of a loss: the loss is the sum of the shares.
"""

import logging
import os
from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from vldd_dist.sharding.layout import Layout
from vldd_dist.sharding.ranks import Ranks

# Elements.
SMALLEST_BUCKET, LARGEST_BUCKET = 1 << 18, 1 << 25


class ShardedModel(Protocol):
    """Attributes:
    layout: of the trainable parameters, in the order they were given.
    in_shards: whether a rank has only its shards of the parameters between two passes.
    """

    @property
    def layout(self) -> Layout: ...

    @property
    def in_shards(self) -> bool: ...

    def __call__(self, *inputs: Tensor) -> Any:
        """The model's outputs at the parameters written last."""
        ...

    def write(self, shards: Sequence[Tensor]) -> None:
        """Set the trainable parameters, each rank its shards."""
        ...

    def read(self) -> list[Tensor]:
        """Copies of this rank's shards of the trainable parameters."""
        ...

    def read_momentum(self) -> list[Tensor]:
        """Copies of this rank's shards of the SGD's momentum; empty without momentum or before the first step."""
        ...

    def write_momentum(self, shards: Sequence[Tensor]) -> None:
        """Set what `read_momentum` gave."""
        ...

    def backward(self, share: Tensor) -> list[Tensor]:
        """Back through this rank's share of a loss: this rank's shards (n,) of the gradient of the whole loss. Leaves among the
        inputs get their gradient of the whole loss in `.grad`, if the shares are connected by collectives with gradient."""
        ...

    def step(self, share: Tensor) -> None:
        """One step of the optimiser along the gradient of the whole loss."""
        ...

    def whole(self, parameter: nn.Parameter) -> Tensor:
        """A parameter that does not move, whole on this rank for as long as it is held (a collective)."""
        ...


def shard_model(model: nn.Module, optimiser: torch.optim.Optimizer, stage: int, ranks: Ranks) -> ShardedModel:
    """Put a model on the ranks.

    Args:
        model: the same on every rank, on its device; it belongs to the result from now on.
        optimiser: of the parameters that move, in the order of the layout; `step` takes its steps.
        stage: 0 whole on each rank, 1 to 3 as DeepSpeed's ZeRO.
    """
    return Replicas(model, optimiser, ranks) if stage == 0 else ZeroModel(model, optimiser, stage, ranks)


def bucket_elements(parameters: int) -> int:
    """Elements of the engine's buffers for a model of so many; DeepSpeed's own, 5e8, would be most of what a rank holds."""
    return min(max(parameters // 16, SMALLEST_BUCKET), LARGEST_BUCKET)


def _parameters(optimiser: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimiser.param_groups for parameter in group["params"]]


class Replicas:
    """Whole on every rank; only what is written and read is cut. Needs no DeepSpeed."""

    in_shards = False

    def __init__(self, model: nn.Module, optimiser: torch.optim.Optimizer, ranks: Ranks) -> None:
        self.model, self.optimiser, self.parameters = model, optimiser, _parameters(optimiser)
        self.layout = Layout.even(ranks, [parameter.shape for parameter in self.parameters])

    def __call__(self, *inputs: Tensor) -> Any:
        return self.model(*inputs)

    @torch.no_grad()
    def write(self, shards: Sequence[Tensor]) -> None:
        for parameter, value in zip(self.parameters, self.layout.gather(shards), strict=True):
            parameter.copy_(value)

    def read(self) -> list[Tensor]:
        return [shard.clone() for shard in self.layout.cut([parameter.detach() for parameter in self.parameters])]

    def read_momentum(self) -> list[Tensor]:
        buffers = [self.optimiser.state[parameter].get("momentum_buffer") for parameter in self.parameters]
        return [] if any(buffer is None for buffer in buffers) else [shard.clone() for shard in self.layout.cut(buffers)]

    def write_momentum(self, shards: Sequence[Tensor]) -> None:
        if not shards:
            return
        for parameter, value in zip(self.parameters, self.layout.gather(shards), strict=True):
            self.optimiser.state[parameter]["momentum_buffer"] = value.clone()

    def backward(self, share: Tensor) -> list[Tensor]:
        share.backward()
        return self.layout.scatter_sum(self._gradients())

    def step(self, share: Tensor) -> None:
        share.backward()
        if self.layout.ranks.world_size > 1:
            self._sum_gradients()
        self.optimiser.step()
        self.optimiser.zero_grad()

    def _sum_gradients(self) -> None:
        flat = self.layout.ranks.all_reduce(torch.cat([gradient.flatten() for gradient in self._gradients()]))
        for parameter, gradient in zip(self.parameters, flat.split([p.numel() for p in self.parameters]), strict=True):
            parameter.grad = gradient.view_as(parameter)

    def _gradients(self) -> list[Tensor]:
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        self.optimiser.zero_grad()
        return gradients

    def whole(self, parameter: nn.Parameter) -> Tensor:
        return parameter.detach()


class ZeroModel:
    """On a DeepSpeed engine.

    Args:
        stage: 1, 2: parameters whole on each rank, gradients in shards; 3: parameters in shards too.
    """

    def __init__(self, model: nn.Module, optimiser: torch.optim.Optimizer, stage: int, ranks: Ranks) -> None:
        self.parameters, self.stage, self.ranks = _parameters(optimiser), stage, ranks
        self.in_shards = stage == 3
        self.has_momentum = any(group.get("momentum") for group in optimiser.param_groups)
        shapes = [parameter.shape for parameter in self.parameters]
        self.engine = _engine(model, optimiser, stage)
        if self.has_momentum:
            _begin_momentum(self.engine.optimizer, stage)
        if stage == 3:
            self.layout = Layout.even(ranks, shapes)
        else:
            self.layout = Layout(ranks, shapes, ranks.all_gather([_fragment(parameter) for parameter in self.parameters]))

    def __call__(self, *inputs: Tensor) -> Any:
        return self.engine(*inputs)

    @torch.no_grad()
    def write(self, shards: Sequence[Tensor]) -> None:
        # Twice: what the forward pass reads, and the engine's own copy, which its steps move.
        if self.stage == 3:
            # A parameter still whole here from the last pass would hide what is written to its shard.
            self.engine.empty_partition_cache()
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

    def backward(self, share: Tensor) -> list[Tensor]:
        # The engine takes the mean over the ranks.
        self.engine.backward(share)
        gradients = [self._gradient(parameter, length) for parameter, length in self._owned()]
        self.engine.optimizer.zero_grad()
        torch._foreach_mul_(gradients, float(self.ranks.world_size))
        return gradients

    def step(self, share: Tensor) -> None:
        self.engine.backward(share * self.ranks.world_size)
        self.engine.step()

    def whole(self, parameter: nn.Parameter) -> Tensor:
        if self.stage < 3:
            return parameter.detach()
        shape = parameter.ds_shape  # type: ignore[attr-defined]
        shard = parameter.ds_tensor.view(-1)  # type: ignore[attr-defined]
        if self.ranks.world_size == 1:
            return shard[: shape.numel()].view(shape)
        flat = shard.new_empty(self.ranks.world_size * len(shard))
        dist.all_gather_into_tensor(flat, shard)
        return flat[: shape.numel()].view(shape)

    def _owned(self) -> list[tuple[Any, int]]:
        """Each parameter, with the number of its elements that are this rank's."""
        return [(p, stop - start) for p, (start, stop) in zip(self.parameters, self.layout.own, strict=True)]

    def _gradient(self, parameter: Any, length: int) -> Tensor:
        if self.stage == 3:
            from deepspeed.utils import safe_get_local_grad

            return safe_get_local_grad(parameter).view(-1)[:length].clone()
        if length == 0:
            return parameter.new_zeros(0)
        return parameter._hp_mapping.get_lp_grad_fragment(parameter._index_in_param_group).view(-1).clone()

    def _masters(self) -> list[Tensor]:
        """Views of the engine's own copies."""
        if self.stage == 3:
            return [_local(parameter, None)[:length] for parameter, length in self._owned()]
        return [p._hp_mapping.hp_fragment if length else p.new_zeros(0) for p, length in self._owned()]

    def _momenta(self) -> list[Tensor]:
        """Views of the engine's momentum."""
        if self.stage == 3:
            return [_local(p, "momentum_buffer")[:length] for p, length in self._owned()]
        return [_momentum(self.engine.optimizer, p) if length else p.new_zeros(0) for p, length in self._owned()]


def _local(parameter: nn.Parameter, key: str | None) -> Tensor:
    """A view of this rank's part of a parameter, or of its optimiser state, under ZeRO 3."""
    from deepspeed.utils import safe_get_local_fp32_param, safe_get_local_optimizer_state

    view = safe_get_local_optimizer_state(parameter, key) if key else safe_get_local_fp32_param(parameter)
    return view.view(-1)


def _momentum(optimizer: Any, parameter: Any) -> Tensor:
    """The same of the momentum, under ZeRO 1 and 2."""
    mapping = parameter._hp_mapping
    flat = optimizer.single_partition_of_fp32_groups[mapping.param_group_index]
    address = mapping.hp_fragment_address
    return optimizer.optimizer.state[flat]["momentum_buffer"].narrow(0, address.start, address.numel)


def _begin_momentum(optimizer: Any, stage: int) -> None:
    """Zeros, which torch's SGD makes of nothing in its first step: so that there is something to read and to write before."""
    for flat in optimizer.fp32_partitioned_groups_flat if stage == 3 else optimizer.single_partition_of_fp32_groups:
        optimizer.optimizer.state[flat]["momentum_buffer"] = torch.zeros_like(flat)


def _fragment(parameter: nn.Parameter) -> tuple[int, int]:
    """The elements of a parameter whose gradient this rank owns under ZeRO 1 and 2."""
    mapping = parameter._hp_mapping  # type: ignore[attr-defined]
    if mapping is None:
        return 0, 0
    address = mapping.lp_fragment_address
    return address.start, address.start + address.numel


def _engine(model: nn.Module, optimiser: torch.optim.Optimizer, stage: int) -> Any:
    on_gpu = next(model.parameters()).is_cuda
    if not on_gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
    # Here: it probes drivers and compilers, and a student on one rank needs none of it.
    import deepspeed
    from deepspeed.utils import logger

    logger.setLevel(logging.ERROR)
    # Its collective in shared memory is compiled on first use, by all ranks at once, and a killed build leaves a lock.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed("nccl" if on_gpu else "gloo", auto_mpi_discovery=False, verbose=False)
    bucket = bucket_elements(sum(parameter.numel() for parameter in model.parameters()))
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.0,
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {
            "stage": stage,
            "contiguous_gradients": stage == 3,
            "overlap_comm": on_gpu,
            # Nothing stays whole between two uses: parameters change under the engine between passes.
            "stage3_param_persistence_threshold": 0,
            "stage3_max_reuse_distance": 0,
            "stage3_max_live_parameters": 2 * bucket,
            "stage3_prefetch_bucket_size": bucket,
            "reduce_bucket_size": bucket,
        },
    }
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimiser, config=config)
    return engine
