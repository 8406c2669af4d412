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
