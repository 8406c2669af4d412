"""The source `shards`: captions in text files, and for which tars versions are requested."""

from pathlib import Path

import pytest

from tests.data.sample_files import jpeg, tar
from tests.data.small_sources import shards
from tests.data.tables import read
from vldd_dist.data.files import versions
from vldd_dist.data.sources.base import Part


def test_a_text_file_is_one_caption_without_its_byte_order_mark(tmp_path: Path) -> None:
    members = {"a.jpg": jpeg(), "a.txt": b"\xef\xbb\xbfcaf\xc3\xa9\nat night\n"}
    (sample,) = read(shards(tmp_path, members).source)
    assert sample.captions == ["café\nat night"]


def test_only_the_tars_of_a_group_are_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan requests the versions of all tars once, a group only those of its own tars."""
    for number in range(4):
        tar(tmp_path / f"{number}.tar", {"a.jpg": jpeg(), "a.txt": b"a"})
    asked: list[str] = []
    version = versions._version
    monkeypatch.setattr(versions, "_version", lambda url, *place: asked.append(Path(url).name) or version(url, *place))
    source = shards(tmp_path, train=f"{tmp_path}/[0-9].tar").source
    parts = [Part(1, 2), Part(2, 4)]
    only = source.describe_only("train", parts, seed=0)
    assert asked == ["1.tar", "2.tar", "3.tar"]
    asked.clear()
    planned = [source.describe("train", part, seed=0) for part in (Part(0, 1), *parts)]
    assert sorted(asked) == ["0.tar", "1.tar", "2.tar", "3.tar", "test.tar", "val.tar"]
    assert planned[1:] == only
