"""A dual encoder's modules without memory for its parameters, to be filled from the ranks when a whole model is needed."""

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from vldd_dist.models.dual_encoder import DualEncoder
from vldd_dist.models.parameters import ParameterView
from vldd_dist.sharding.engines.sharded_model import ShardedModel


class Skeleton:
    """A copy of a dual encoder's modules, with empty parameters.

    Args:
        model: not yet passed to `shard_model`, so that no hooks of an engine are copied. Its buffers are shared with the
            skeleton.
    """

    def __init__(self, model: DualEncoder) -> None:
        # Names, not parameters: an engine replaces parameters by shards, and references would keep the whole ones alive.
        self.frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
        empty: dict[int, Tensor] = {
            id(parameter): nn.Parameter(torch.empty_like(parameter, device="meta"), parameter.requires_grad)
            for parameter in model.parameters()
        }
        self.model: DualEncoder = copy.deepcopy(model, empty | {id(buffer): buffer for buffer in model.buffers()})
        # Trainable parameters are replaced at each call by `models.parameters.call`, or filled in by `whole`.
        self.view = ParameterView(self.model)

    @contextmanager
    def with_frozen(self, engine: ShardedModel) -> Iterator[DualEncoder]:
        """Within the `with` block, the frozen parameters are on this rank."""
        with self._filled((name, engine.whole(name)) for name in self.frozen):
            yield self.model

    @contextmanager
    def whole(self, engine: ShardedModel) -> Iterator[DualEncoder]:
        """Within the `with` block, all parameters are on this rank."""
        trainable = zip(self.view.names, engine.layout.gather(engine.read()), strict=True)
        with self.with_frozen(engine), self._filled(trainable):
            yield self.model

    @contextmanager
    def _filled(self, values: Iterable[tuple[str, Tensor]]) -> Iterator[None]:
        """Within the `with` block, the parameters with these names have these values."""
        empty = {}
        for name, value in values:
            owner, leaf = self._owner(name)
            empty[name] = getattr(owner, leaf)
            setattr(owner, leaf, nn.Parameter(value, empty[name].requires_grad))
        try:
            yield
        finally:
            for name, parameter in empty.items():
                owner, leaf = self._owner(name)
                setattr(owner, leaf, parameter)

    def _owner(self, name: str) -> tuple[nn.Module, str]:
        """The module that owns a parameter, and the parameter's name in it."""
        path, _, leaf = name.rpartition(".")
        return self.model.get_submodule(path), leaf
