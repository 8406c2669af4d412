"""The source `shards`: captions in text files, and for which tars versions are requested."""

import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.data.sample_files import jpeg, pair, tar
from tests.data.small_sources import shards
from tests.data.tables import read
from vldd_dist.data.files import versions
from vldd_dist.data.sources.base import Part
from vldd_dist.data.sources.sample import UnreadableSample
from vldd_dist.errors import DataError


def test_a_text_file_is_one_caption_without_its_byte_order_mark(tmp_path: Path) -> None:
    members = {"a.jpg": jpeg(), "a.txt": b"\xef\xbb\xbfcaf\xc3\xa9 at night\n \n"}
    (sample,) = read(shards(tmp_path, members).source)
    assert sample.captions == ["café at night"]


def error_of(tmp_path: Path, members: dict[str, bytes]) -> str:
    """The error of the only sample of a tar."""
    (sample,) = read(shards(tmp_path, members).source)
    assert isinstance(sample, UnreadableSample)
    return str(sample.error)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_text_file_of_several_lines_is_a_bad_sample(tmp_path: Path, end: str) -> None:
    """In the source `folder` these are two captions; as one they would be trained on joined."""
    error = error_of(tmp_path, {"a.jpg": jpeg(), "a.txt": f"a dog{end}{end}a brown dog{end}".encode()})
    assert error.endswith(
        'a.txt: it has 2 lines, and KEY.txt is one caption: write KEY.json with "captions": [...], or one line'
    )


def test_a_sample_without_an_image_says_what_it_has(tmp_path: Path) -> None:
    """Two files whose names have dots are one sample by the rules of WebDataset."""
    dots = {f"IMG.{number:02d}.{end}": b"x" for number in range(3) for end in ("jpg", "txt")}
    assert error_of(tmp_path, dots).endswith(
        "IMG: no image (.jpg, .png or .webp): it has .00.jpg, .00.txt, .01.jpg, .01.txt and 2 more: a key ends at the first "
        "dot of a file's name: rename the files"
    )
    assert error_of(tmp_path, {"a.bmp": b"x", "a.txt": b"x"}).endswith(
        "a: no image (.jpg, .png or .webp): it has only .bmp, .txt: add the image, or convert it"
    )


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_links_in_a_tar_are_bad_samples(tmp_path: Path, link: Callable[[Path, Path], None]) -> None:
    """`tar` writes a file with several names once, and links for its other names."""
    pair(tmp_path / "pairs" / "a.jpg", "a")
    for ending in ("jpg", "txt"):
        link(tmp_path / "pairs" / f"a.{ending}", tmp_path / "pairs" / f"b.{ending}")
    found = {}
    for dereference in (False, True):
        path = tmp_path / f"{dereference}.tar"
        with tarfile.open(path, "w", dereference=dereference) as archive:
            for file in sorted((tmp_path / "pairs").iterdir()):
                archive.add(file, file.name)
        found[dereference] = read(shards(tmp_path, train=str(path)).source)
    first, bad = found[False]
    assert isinstance(bad, UnreadableSample)
    assert str(bad.error).endswith(
        "b: b.txt is a link to another file: write the tar with --dereference --hard-dereference (Python's tarfile: "
        "dereference=True)"
    )
    assert [sample.captions for sample in (first, *found[True])] == [["a"]] * 3


def test_a_tar_that_is_named_in_two_ways_is_named_twice(tmp_path: Path) -> None:
    """By `**` a link to a folder above leads to the same tar forty times."""
    (tmp_path / "loop").symlink_to(tmp_path)
    sentence = (
        r"data\.source\.train: .*train\.tar, the same file as .*train\.tar, is named twice: remove one of its names, patterns"
    )
    for train in (f"{tmp_path}/train.tar::{tmp_path}/./train.tar", f"{tmp_path}/train.tar::file://{tmp_path}/train.tar"):
        with pytest.raises(DataError, match=sentence):
            shards(tmp_path, train=train).source.parts("train", limit=None, part_samples=1)
    with pytest.raises(DataError, match=sentence):
        shards(tmp_path, train=f"{tmp_path}/**/train.tar").source.parts("train", limit=None, part_samples=1)
    with pytest.raises(
        DataError, match=r"loop/train\.tar, the same file as .*, is named for both train and val: remove it from"
    ):
        shards(tmp_path, val=f"{tmp_path}/loop/train.tar").source.parts("train", limit=None, part_samples=1)


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
