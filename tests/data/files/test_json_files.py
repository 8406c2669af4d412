"""Every reader of a user's JSON says in the same words what is wrong with it, and which file it is."""

from pathlib import Path
from typing import Any

import pytest

from vldd_dist.config.base import choose
from vldd_dist.data.files.json_files import parse_json, read_json
from vldd_dist.data.files.shards import captions_of
from vldd_dist.data.recognise import recognise
from vldd_dist.errors import DataError, MissingData
from vldd_dist.plugins import SOURCES

DEEP = b"[" * 100_000


def parts(**settings: Any) -> None:
    choose(SOURCES, settings).parts("train", limit=None, part_samples=10)


@pytest.mark.parametrize(
    ("content", "reason"), [(b"{", "Expecting property name"), (b"\xff", "'utf-8' codec can't decode"), (DEEP, "recursion")]
)
def test_damaged_json_is_one_sentence_with_the_file_and_the_reason(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_bytes(content)
    sentence = rf"data\.json: not JSON, or nested too deeply \(.*{reason}.*\): correct the file"
    for read in (
        lambda: parse_json(content, "data.json"),
        lambda: read_json(str(path), "data.source.train: data.json"),
        lambda: captions_of({"json": content}, "data"),
        lambda: recognise(str(path)),
        lambda: parts(name="coco", train=str(path), train_images=str(tmp_path)),
        lambda: parts(name="karpathy", annotations=str(path), images=str(tmp_path)),
    ):
        with pytest.raises(DataError, match=sentence):
            read()


def test_a_missing_file_is_an_error_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(MissingData, match=r"the annotations cannot be read \(.*No such file.*\): correct the path"):
        read_json(str(tmp_path / "none.json"), "the annotations")
    with pytest.raises(DataError, match=r"cannot be read \(embedded null byte\): correct the path or the access") as caught:
        parts(name="karpathy", annotations="a\0b", images=str(tmp_path))
    assert not isinstance(caught.value, MissingData)
