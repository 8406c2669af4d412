"""Versions of files, which show whether a source has changed."""

import os
from pathlib import Path
from typing import Any

import fsspec
import pytest

from tests.data.sample_files import jpeg
from vldd_dist.config.base import choose
from vldd_dist.data.files import versions
from vldd_dist.data.files.versions import content_version, listing, recorded_version
from vldd_dist.errors import DataError
from vldd_dist.plugins import SOURCES
from vldd_dist.store.user_files import digests


def test_files_of_a_remote_folder_are_told_apart_by_their_sizes_and_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hidden files are ignored."""
    monkeypatch.setattr(versions, "VERSIONS", ("created",))
    filesystem = fsspec.filesystem("memory")
    filesystem.pipe({"/versions/a.txt": b"one", "/versions/b/c.txt": b"four", "/versions/.hidden/d.txt": b"x"})
    first = listing("memory://versions")
    assert sorted(first) == ["a.txt", "b/c.txt"]
    filesystem.pipe("/versions/a.txt", b"other")
    second = listing("memory://versions")
    assert first["a.txt"] != second["a.txt"]
    assert first["b/c.txt"] == second["b/c.txt"]


def test_a_remote_folder_without_versions_is_refused() -> None:
    """By its sizes alone, a caption that is edited to another one of the same length would not be seen."""
    fsspec.filesystem("memory").pipe({"/unversioned/.a": b"1", "/unversioned/a.jpg": jpeg(), "/unversioned/a.txt": b"a dog"})
    source = choose(SOURCES, {"name": "folder", "path": "memory://unversioned"})
    with pytest.raises(
        DataError, match=r"^memory://unversioned: the server reports neither .* of a\.jpg, so changes .*: copy the"
    ):
        source.own_splits()


def test_what_a_server_records_is_the_same_in_each_kind_of_answer() -> None:
    assert recorded_version({"ETag": '"abc"'}) == recorded_version({"ETag": "abc"}) == "ETag abc"
    assert recorded_version({"modificationTime": 17}) == "modificationTime 17"
    assert recorded_version({"size": 3}) == ""


def test_a_file_is_read_once_for_its_digest_as_long_as_it_stays_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, read = tmp_path / "x.csv", []
    path.write_bytes(b"one")
    sha256_of = digests.sha256_of
    monkeypatch.setattr(digests, "sha256_of", lambda url: read.append(url) or sha256_of(url))
    # Not its own value: a busy machine may stop the test for longer.
    monkeypatch.setattr(digests, "SETTLED_SECONDS", 3600)
    first = content_version(str(path))
    assert content_version(str(path)) == first
    assert len(read) == 2, "the file was changed a moment ago"
    monkeypatch.setattr(digests, "SETTLED_SECONDS", 0)
    assert content_version(str(path)) == content_version(str(path)) == first
    assert len(read) == 3
    status = path.stat()
    path.write_bytes(b"two")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert content_version(str(path)) != first
    path.unlink()
    with pytest.raises(FileNotFoundError):
        content_version(str(path))


def test_a_listing_asks_once_for_each_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken link is listed too."""
    for name in "abc":
        (tmp_path / name).write_text(name)
    (tmp_path / "link").symlink_to("nowhere")
    asked: list[str] = []
    stat = os.stat

    def recording(path: Any, *args: Any, **options: Any) -> os.stat_result:
        asked.append(str(path))
        return stat(path, *args, **options)

    monkeypatch.setattr(os, "stat", recording)
    assert sorted(listing(str(tmp_path))) == ["a", "b", "c", "link"]
    assert sorted(Path(path).name for path in asked if Path(path).parent == tmp_path) == ["a", "b", "c", "link"]
