"""Patterns of URLs mean the same on a disk of this machine and elsewhere."""

from pathlib import Path

import pytest

from vldd_dist.data.files.url_patterns import expand


@pytest.mark.parametrize("prefix", ["", "file://"])
@pytest.mark.parametrize("pattern", ["**/*.tar", "**/**/*.tar"])
def test_two_stars_match_folders_at_any_depth_and_each_tar_once(tmp_path: Path, prefix: str, pattern: str) -> None:
    names = ["a/b/z.tar", "a/y.tar", "x.tar"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert expand(f"{prefix}{tmp_path}/{pattern}") == [f"{prefix}{tmp_path}/{name}" for name in names]


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_hidden_files_match_only_patterns_that_name_them(tmp_path: Path, prefix: str) -> None:
    for name in ["a/._y.tar", "a/y.tar", ".h/k.tar"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert expand(f"{prefix}{tmp_path}/**/*.tar") == [f"{prefix}{tmp_path}/a/y.tar"]
    assert expand(f"{prefix}{tmp_path}/.h/*.tar") == [f"{prefix}{tmp_path}/.h/k.tar"]
