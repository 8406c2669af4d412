"""A distillation's checkpoint: each rank writes its rows, any number of ranks reads them.

rows.safetensors      the pairs, of what moves the best pairs, the running average and the outer optimiser's state, a row for
                      each pair; in several files (`artifacts.row_files`) if there are several ranks
shared.safetensors    equal on all ranks: of the shared tensors the same, the curves
"""

import logging
from typing import Any, NamedTuple

from torch import Tensor

from vldd_dist.artifacts import tensors
from vldd_dist.artifacts.checkpoints import Checkpoint
from vldd_dist.artifacts.row_files import row_file_name, row_file_place, row_files_of
from vldd_dist.artifacts.unit_writer import UnitWriter
from vldd_dist.distillation.outer_optimiser import OuterOptimiser
from vldd_dist.distillation.pairs import SyntheticPairs
from vldd_dist.sharding.checkpoints import newest_checkpoint, save_together
from vldd_dist.sharding.ranks import Ranks, rows_of
from vldd_dist.store.async_writer import AsyncWriter

ROWS, SHARED = "rows", "shared.safetensors"

logger = logging.getLogger(__name__)


class LoopState(NamedTuple):
    """What a checkpoint holds beside facts and curves.

    Attributes:
        average: of the pairs; none where it is not kept.
    """

    pairs: SyntheticPairs
    best: SyntheticPairs
    outer: OuterOptimiser
    average: SyntheticPairs | None = None

    def copies(self) -> dict[str, SyntheticPairs]:
        """Other values of what moves, by name."""
        return {"best": self.best} | ({} if self.average is None else {"average": self.average})


class RunCheckpoints:
    """Args:
    total: pairs over all ranks.
    """

    def __init__(self, writer: UnitWriter, ranks: Ranks, total: int) -> None:
        self.writer, self.ranks, self.total = writer, ranks, total

    def save(self, step: int, state: LoopState, curves: dict[str, Tensor], facts: dict[str, Any], uploads: AsyncWriter) -> None:
        """Keep the state after `step` outer steps."""
        objects = {row_file_name(ROWS, self.ranks.rank, self.ranks.world_size): tensors.encode(_rows(state))}
        if self.ranks.is_main:
            objects[SHARED] = tensors.encode(_shared(state) | _named("curves", curves))
        save_together(self.writer, self.ranks, step, objects, lambda: facts, uploads)

    def restore(self, state: LoopState) -> tuple[int, dict[str, Tensor], dict[str, Any]] | None:
        """Load the newest checkpoint that is whole into the state.

        Returns:
            (outer steps done, curves, facts), or None if there is no checkpoint, or one of an earlier version.
        """

        def wanted(name: str) -> bool:
            place = row_file_place(ROWS, name)
            return name == SHARED or (place is not None and bool(self._own_rows(*place)))

        checkpoint = newest_checkpoint(self.writer, self.ranks, wanted)
        if checkpoint is None:
            return None
        if not any(row_file_place(ROWS, name) for name in checkpoint.listed):
            logger.warning("the checkpoint of outer step %d is of an earlier version and is ignored", checkpoint.step)
            return None
        return checkpoint.step, self._load(checkpoint, state), checkpoint.facts

    def _own_rows(self, index: int, count: int) -> range:
        """The rows of row file `index` of `count` that this rank owns."""
        start, stop = self.ranks.rows(self.total)
        first, end = rows_of(index, count, self.total)
        return range(max(first, start), min(end, stop))

    def _load(self, checkpoint: Checkpoint, state: LoopState) -> dict[str, Tensor]:
        source = f"checkpoint of outer step {checkpoint.step}"
        kept, (start, _) = _rows(state), self.ranks.rows(self.total)
        files = row_files_of(ROWS, checkpoint.listed, source)
        for index, file in enumerate(files):
            if own := self._own_rows(index, len(files)):
                first, _ = rows_of(index, len(files), self.total)
                for key, value in tensors.decode(checkpoint.read(file), source).items():
                    kept[key][own.start - start : own.stop - start] = value[own.start - first : own.stop - first]
        shared = tensors.decode(checkpoint.read(SHARED), source)
        for key, tensor in _shared(state).items():
            tensor.copy_(shared[key])
        return {name.removeprefix("curves/"): tensor for name, tensor in shared.items() if name.startswith("curves/")}


def _named(prefix: str, named: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}/{name}": tensor for name, tensor in named.items()}


def _rows(state: LoopState) -> dict[str, Tensor]:
    """What has a row for each pair, sharing memory with the state."""
    named = _named("pairs", state.pairs.rows) | _named("outer", state.outer.rows_state())
    for prefix, pairs in state.copies().items():
        named |= _named(prefix, pairs.learned(pairs.rows))
    return named


def _shared(state: LoopState) -> dict[str, Tensor]:
    named = _named("pairs", state.pairs.shared) | _named("outer", state.outer.shared_state())
    for prefix, pairs in state.copies().items():
        named |= _named(prefix, pairs.learned(pairs.shared))
    return named
