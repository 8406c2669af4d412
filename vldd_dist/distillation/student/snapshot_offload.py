"""The snapshot stack that `distill.objective.offload_snapshots` asks for."""

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import gettempdir

from vldd_dist.distillation.unroll import OnDisk, OnHost, SnapshotStack, Tensors
from vldd_dist.errors import UnusableHere


class SnapshotDisk(OnDisk):
    """`OnDisk` whose errors say what to do."""

    def push(self, tensors: Tensors) -> None:
        try:
            super().push(tensors)
        except OSError as error:
            raise UnusableHere(
                f"distill.objective.offload_snapshots: nvme: {self.folder}: {error.strerror or error}: set "
                "VLDD_SCRATCH_DIR to a folder with enough space"
            ) from None


@contextmanager
def snapshot_stack(offload: str) -> Iterator[SnapshotStack | None]:
    """Opens a stack for the unroll's snapshots. Its space on disk is freed at the end of the `with` block.

    Args:
        offload: "none" (yields None: snapshots stay on the student's device), "cpu" or "nvme".

    Raises:
        UnusableHere: the folder that VLDD_SCRATCH_DIR names does not exist, or its disk is full.
    """
    if offload != "nvme":
        yield OnHost() if offload == "cpu" else None
        return
    scratch = os.environ.get("VLDD_SCRATCH_DIR")
    if scratch and not Path(scratch).is_dir():
        raise UnusableHere(f"VLDD_SCRATCH_DIR: {scratch}: no such folder: create it or name another")
    with closing(SnapshotDisk(Path(scratch or gettempdir()))) as stack:
        yield stack
