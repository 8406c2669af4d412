"""The folder to which snapshots are offloaded, and its errors."""

import errno
import os
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import pytest
import torch

from vldd_dist.distillation.student.snapshot_offload import SnapshotDisk, snapshot_stack
from vldd_dist.distillation.unroll import OnDisk
from vldd_dist.errors import UnusableHere


def test_snapshots_are_on_the_disk_that_the_variable_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLDD_SCRATCH_DIR", raising=False)
    for wanted in (Path(gettempdir()), tmp_path):
        with snapshot_stack("nvme") as stack:
            assert isinstance(stack, SnapshotDisk)
            assert stack.folder == wanted
            stack.push([torch.arange(3.0)])
            assert Path(os.readlink(f"/proc/self/fd/{stack._file.fileno()}")).parent == wanted
            assert stack.pop()[0].tolist() == [0, 1, 2]
        monkeypatch.setenv("VLDD_SCRATCH_DIR", str(tmp_path))


def test_a_scratch_folder_that_does_not_exist_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLDD_SCRATCH_DIR", str(tmp_path / "absent"))
    with (
        pytest.raises(UnusableHere, match=r"^VLDD_SCRATCH_DIR: /.*/absent: no such folder: create it or name another$"),
        snapshot_stack("nvme"),
    ):
        pass


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def push(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setenv("VLDD_SCRATCH_DIR", str(tmp_path))
    monkeypatch.setattr(OnDisk, "push", push)
    with snapshot_stack("nvme") as stack:
        assert stack is not None
        with pytest.raises(UnusableHere, match=r"nvme: /.*: No space left on device: set VLDD_SCRATCH_DIR to a folder"):
            stack.push([torch.arange(3.0)])
