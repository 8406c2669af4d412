"""Whether a store may be written is told before anything is."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.cli.command import vldd
from vldd_dist.errors import StoreError
from vldd_dist.store.store import Store


def test_permission_is_checked_without_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For root, everything is permitted."""
    (tmp_path / "file").write_bytes(b"")
    Store(str(tmp_path / "new" / "store")).check_permission()
    with pytest.raises(StoreError, match="there is a file where a folder should be"):
        Store(str(tmp_path / "file" / "store")).check_permission()
    with pytest.raises(StoreError, match="http:// can only be read"):
        Store("http://127.0.0.1:9/x").check_permission()
    sentence = rf"/new/store: the folder {tmp_path} cannot be written \({{}}\): mount the store's folder on this machine, give "
    asked = []
    monkeypatch.setattr(os, "access", lambda path, mode: asked.append((path, mode)))
    with pytest.raises(StoreError, match=sentence.format("Permission denied")):
        Store(str(tmp_path / "new" / "store")).check_permission()
    assert asked == [(str(tmp_path), os.W_OK | os.X_OK)]
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_flag=os.ST_RDONLY))
    with pytest.raises(StoreError, match=sentence.format("Read-only file system")):
        Store(str(tmp_path / "new" / "store")).check_permission()
    assert [path.name for path in tmp_path.rglob("*")] == ["file"]


def test_a_plan_refuses_a_store_that_a_run_would_refuse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    code, out, err = vldd("run", "scenes", "--plan", "--until", "data", "--store", str(tmp_path / "new"), capsys=capsys)
    assert (code, out) == (4, "")
    assert f"the folder {tmp_path} cannot be written (Permission denied)" in err
