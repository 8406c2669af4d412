"""Checkpoints of a distillation. Each rank writes its own rows, and any number of ranks can read them.

rows.safetensors      one row for each pair: the pairs; of the tensors that are learned also the best pairs, the running average
                      and the state of the outer optimiser. With several ranks, a file each
                      (`artifacts.tensor_files.row_files`)
shared.safetensors    the same for the shared tensors, and the curves; equal on all ranks, so that rank 0 writes it
"""

from typing import Any, NamedTuple

from torch import Tensor

from vldd_dist.artifacts.checkpoints import Checkpoint
from vldd_dist.artifacts.tensor_files import tensors
from vldd_dist.artifacts.tensor_files.row_files import row_file_name, row_file_number, row_files_of
from vldd_dist.artifacts.unit_writer import UnitWriter
from vldd_dist.distillation.outer_optimiser import OuterOptimiser
from vldd_dist.distillation.pairs import SyntheticPairs
from vldd_dist.sharding.checkpoints import newest_checkpoint, save_together
from vldd_dist.sharding.ranks import Ranks, rows_of
from vldd_dist.store.async_writer import AsyncWriter

ROWS, SHARED = "rows", "shared.safetensors"


class LoopState(NamedTuple):
    """The tensors of a checkpoint, except the curves.

    Attributes:
        average: the running average of the pairs; None if there is none.
    """

    pairs: SyntheticPairs
    best: SyntheticPairs
    outer: OuterOptimiser
    average: SyntheticPairs | None = None

    def copies(self) -> dict[str, SyntheticPairs]:
        """The other versions of the pairs, by name."""
        return {"best": self.best} | ({} if self.average is None else {"average": self.average})


class OuterLoopCheckpoints:
    """Writes and reads a distillation's checkpoints.

    Args:
        total: number of pairs over all ranks.
    """

    def __init__(self, writer: UnitWriter, ranks: Ranks, total: int) -> None:
        self.writer, self.ranks, self.total = writer, ranks, total

    def save(self, step: int, state: LoopState, curves: dict[str, Tensor], facts: dict[str, Any], uploads: AsyncWriter) -> None:
        """Store the state after `step` outer steps."""
        objects = {row_file_name(ROWS, self.ranks.rank, self.ranks.world_size): tensors.encode(_rows(state))}
        if self.ranks.is_main:
            objects[SHARED] = tensors.encode(_shared(state) | _prefixed("curves", curves))
        save_together(self.writer, self.ranks, step, objects, lambda: (facts, {}), uploads)

    def restore(self, state: LoopState) -> tuple[int, dict[str, Tensor], dict[str, Any]] | None:
        """Load the newest complete checkpoint into the state.

        Returns:
            (outer steps done, curves, facts), or None if there is no checkpoint.
        """

        def is_needed(name: str) -> bool:
            number = row_file_number(ROWS, name)
            return name == SHARED or (number is not None and bool(self._own_rows(*number)))

        checkpoint = newest_checkpoint(self.writer, self.ranks, is_needed)
        if checkpoint is None:
            return None
        return checkpoint.step, self._load(checkpoint, state), checkpoint.facts

    def _own_rows(self, index: int, count: int) -> range:
        """The rows of row file `index` of `count` that this rank owns."""
        start, stop = self.ranks.rows(self.total)
        first, end = rows_of(index, count, self.total)
        return range(max(first, start), min(end, stop))

    def _load(self, checkpoint: Checkpoint, state: LoopState) -> dict[str, Tensor]:
        """Copies the checkpoint's tensors into those of the state; returns the curves."""
        source = f"checkpoint of outer step {checkpoint.step}"
        state_rows = _rows(state)
        first_of_rank, _ = self.ranks.rows(self.total)
        files = row_files_of(ROWS, checkpoint.listed, source)
        for index, file in enumerate(files):
            own = self._own_rows(index, len(files))
            if not own:
                continue
            first_of_file, _ = rows_of(index, len(files), self.total)
            in_state = slice(own.start - first_of_rank, own.stop - first_of_rank)
            in_file = slice(own.start - first_of_file, own.stop - first_of_file)
            for key, value in tensors.decode(checkpoint.read(file), source).items():
                state_rows[key][in_state] = value[in_file]
        shared = tensors.decode(checkpoint.read(SHARED), source)
        for key, tensor in _shared(state).items():
            tensor.copy_(shared[key])
        return {name.removeprefix("curves/"): tensor for name, tensor in shared.items() if name.startswith("curves/")}


def earlier_choices(writer: UnitWriter, ranks: Ranks) -> dict[str, Any]:
    """`DistillationContext.choices` of earlier attempts, from the newest checkpoint; empty if there is none."""

    def newest() -> dict[str, Any]:
        keys = writer.checkpoints.keys()
        readable = (found for key in keys if (found := writer.checkpoints.read(key, lambda name: False)))
        newest_readable = next(readable, None)
        return newest_readable.facts.get("choices", {}) if newest_readable else {}

    return ranks.from_main(newest)


def _prefixed(prefix: str, named: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}/{name}": tensor for name, tensor in named.items()}


def _rows(state: LoopState) -> dict[str, Tensor]:
    """The tensors that have a row for each pair; they share memory with the state."""
    named = _prefixed("pairs", state.pairs.rows) | _prefixed("outer", state.outer.rows_state())
    for prefix, pairs in state.copies().items():
        named |= _prefixed(prefix, pairs.learned(pairs.rows))
    return named


def _shared(state: LoopState) -> dict[str, Tensor]:
    """The same for the shared tensors."""
    named = _prefixed("pairs", state.pairs.shared) | _prefixed("outer", state.outer.shared_state())
    for prefix, pairs in state.copies().items():
        named |= _prefixed(prefix, pairs.learned(pairs.shared))
    return named
