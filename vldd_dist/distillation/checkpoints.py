"""A distillation's checkpoint: each rank writes its rows, any number of ranks reads them.

rows-START-STOP.safetensors    of pairs START.. to STOP: the pairs, the best ones, the outer optimiser's state
shared.safetensors             what all ranks have alike: the shared tensors with their optimiser's state, the curves
"""

import re
from typing import Any, NamedTuple

from torch import Tensor

from vldd_dist.artifacts import tensors
from vldd_dist.artifacts.checkpoints import Checkpoint
from vldd_dist.artifacts.unit_writer import UnitWriter
from vldd_dist.distillation.outer_optimiser import OuterOptimiser
from vldd_dist.distillation.pairs import SyntheticPairs
from vldd_dist.sharding.checkpoints import newest_checkpoint, save_together
from vldd_dist.sharding.ranks import Ranks
from vldd_dist.store.async_writer import AsyncWriter

SHARED = "shared.safetensors"
_ROWS = re.compile(r"rows-(\d{7})-(\d{7})\.safetensors")


class LoopState(NamedTuple):
    """What a checkpoint holds beside facts and curves."""

    pairs: SyntheticPairs
    best: SyntheticPairs
    outer: OuterOptimiser


class RunCheckpoints:
    """Args:
    total: pairs over all ranks.
    """

    def __init__(self, writer: UnitWriter, ranks: Ranks, total: int) -> None:
        self.writer, self.ranks, self.total = writer, ranks, total

    def save(self, step: int, state: LoopState, curves: dict[str, Tensor], facts: dict[str, Any], uploads: AsyncWriter) -> None:
        """Keep the state after `step` outer steps."""
        start, stop = self.ranks.rows(self.total)
        objects = {f"rows-{start:07d}-{stop:07d}.safetensors": tensors.encode(_rows(state))}
        if self.ranks.is_main:
            objects[SHARED] = tensors.encode(_shared(state) | _named("curves", curves))
        save_together(self.writer, self.ranks, step, objects, lambda: facts, uploads)

    def restore(self, state: LoopState) -> tuple[int, dict[str, Tensor], dict[str, Any]] | None:
        """The newest checkpoint that is whole, put into the state: (outer steps done, curves, facts); none if there is none."""
        start, stop = self.ranks.rows(self.total)

        def wanted(name: str) -> bool:
            rows = _ROWS.fullmatch(name)
            return name == SHARED or (rows is not None and int(rows[1]) < stop and int(rows[2]) > start)

        checkpoint = newest_checkpoint(self.writer, self.ranks, wanted)
        if checkpoint is None:
            return None
        return checkpoint.step, self._load(checkpoint, state, start, stop), checkpoint.facts

    def _load(self, checkpoint: Checkpoint, state: LoopState, start: int, stop: int) -> dict[str, Tensor]:
        source = f"checkpoint of outer step {checkpoint.step}"
        kept = _rows(state)
        for name in checkpoint.names:
            if rows := _ROWS.fullmatch(name):
                first, last = max(int(rows[1]), start), min(int(rows[2]), stop)
                for key, value in tensors.decode(checkpoint.read(name), source).items():
                    kept[key][first - start : last - start] = value[first - int(rows[1]) : last - int(rows[1])]
        shared = tensors.decode(checkpoint.read(SHARED), source)
        for key, tensor in _shared(state).items():
            tensor.copy_(shared[key])
        return {name.removeprefix("curves/"): tensor for name, tensor in shared.items() if name.startswith("curves/")}


def _named(prefix: str, named: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}/{name}": tensor for name, tensor in named.items()}


def _rows(state: LoopState) -> dict[str, Tensor]:
    """What has a row for each pair, sharing memory with the state."""
    pairs, best = _named("pairs", state.pairs.rows), _named("best", state.best.rows)
    return pairs | best | _named("outer", state.outer.rows_state())


def _shared(state: LoopState) -> dict[str, Tensor]:
    pairs, best = _named("pairs", state.pairs.shared), _named("best", state.best.shared)
    return pairs | best | _named("outer", state.outer.shared_state())
