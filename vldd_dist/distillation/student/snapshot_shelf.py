"""Where `distill.objective.offload_snapshots` keeps the unroll's snapshots."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from vldd_dist.distillation.unroll import OnDisk, OnHost, Params, Shelf
from vldd_dist.errors import StoreError


class SnapshotDisk(OnDisk):
    """`OnDisk` whose failures say what to do."""

    def push(self, tensors: Params) -> None:
        try:
            super().push(tensors)
        except OSError as error:
            raise StoreError(
                f"distill.objective.offload_snapshots: nvme: {self.folder}: {error.strerror or error}: name a folder with room "
                "by VLDD_SCRATCH_DIR"
            ) from None


@contextmanager
def shelf_for(offload: str) -> Iterator[Shelf | None]:
    """A stack for snapshots in the place named; a folder on disk is gone afterwards.

    Args:
        offload: none (the result is None: they stay where they are), cpu or nvme.

    Raises:
        StoreError: the folder that VLDD_SCRATCH_DIR names is not there, or its disk is full.
    """
    if offload != "nvme":
        yield OnHost() if offload == "cpu" else None
        return
    scratch = os.environ.get("VLDD_SCRATCH_DIR")
    if scratch and not Path(scratch).is_dir():
        raise StoreError(f"VLDD_SCRATCH_DIR: {scratch}: no such folder: make it or name another")
    with TemporaryDirectory(prefix="vldd-snapshots-", dir=scratch) as folder:
        yield SnapshotDisk(Path(folder))
