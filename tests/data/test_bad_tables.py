"""The source `table` and bad input: a bad row is one bad sample, and an invalid file is a one-sentence error."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.data.damaged_inputs import FUZZ, JSON, TEXT, assert_raw_or_unreadable, damaged, result_of
from tests.data.sample_files import jpeg
from tests.data.tables import IMAGES, WRITERS, as_csv, as_jsonl, as_parquet, make_images, name_of, read, rows, table
from vldd_dist.control_characters import one_line
from vldd_dist.data.sources.base import Source
from vldd_dist.data.sources.sample import RawSample, UnreadableSample
from vldd_dist.data.sources.tables import lines
from vldd_dist.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_images(tmp_path)
    return tmp_path


BAD_CELLS = {
    "a number for a caption": ({"title": 3}, "title: expected a text, not int"),
    "no caption": ({"title": None}, "title: missing"),
    "an empty caption": ({"title": " "}, "title: empty"),
    "a list with a number": ({"title": ["a", 3]}, "title: expected a text, not int"),
    "an empty list": ({"title": []}, "title: empty"),
    "a list as JSON": (
        {"title": '["A dog.", "Caf\\u00e9 1\\/2"]'},
        "title: holds lists as text: save the table as JSONL or parq",
    ),
    "a list as Python": ({"title": "['A dog.', \"It's\"]"}, "title: holds lists as text: save the table as JSONL or parq"),
    "a list as numpy": ({"title": "['A dog.'\n 'A cat.']"}, "title: holds lists as text: save the table as JSONL or parq"),
    "a dictionary": ({"title": {"a": "b"}}, "title: expected a text, not dict"),
    "half a surrogate pair": ({"title": "\ud800"}, "is not UTF-8"),
    "a number for a path": ({"filepath": 3}, "filepath: expected a text, not int"),
    "no path": ({"filepath": None}, "filepath: missing"),
    "an empty path": ({"filepath": ""}, "filepath: empty"),
    "a folder": ({"filepath": "photos"}, "not a regular file"),
    "a NUL": ({"filepath": "a\0b"}, "not a valid file name"),
    "a FIFO": ({"filepath": "fifo"}, "not a regular file"),
    "a parent": ({"filepath": "../secret.jpg"}, "leads out of data.source.image_folder"),
    "a parent in the middle": ({"filepath": "photos/../../x/secret.jpg"}, "leads out of data.source.image_folder"),
    "an absolute path": ({"filepath": "/etc/passwd"}, "leads out of data.source.image_folder"),
    "a URL": ({"filepath": "http://x/y.jpg"}, "leads out of data.source.image_folder: download it"),
    "an unknown split": ({"part": "tests"}, "part: there is no split 'tests': write one of train"),
    "no split": ({"part": None}, "part: missing"),
    "a number for a split": ({"part": 1}, "part: expected a text, not int"),
}


@pytest.mark.parametrize(("change", "sentence"), BAD_CELLS.values(), ids=BAD_CELLS)
def test_a_bad_row_is_one_bad_sample(folder: Path, change: dict[str, Any], sentence: str) -> None:
    os.mkfifo(folder / "fifo")
    content = [row | {"part": "train"} for row in rows()]
    content[4] |= change
    (folder / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    for images in (2, 100):
        found = read(table(folder / "x.jsonl", split_column="part"), images=images)
        assert len(found) == IMAGES
        (bad,) = [sample for sample in found if isinstance(sample, UnreadableSample)]
        assert str(bad.error).startswith(f"{folder}/x.jsonl: line 5: ")
        assert sentence in str(bad.error)
        assert one_line(str(bad.error)) == str(bad.error)


def test_a_caption_in_brackets_is_no_list(folder: Path) -> None:
    captions = ["[a dog]", "[1] a dog [2]", "[1, 2]", "[" * 5000 + "]"]
    content = [row | {"title": caption} for row, caption in zip(rows(), captions, strict=False)]
    assert [sample.captions for sample in read(table(as_jsonl(folder / "x.jsonl", content)))] == [[each] for each in captions]


def test_a_bad_row_of_several_spoils_its_image_only(folder: Path) -> None:
    content = rows(2)
    content[5]["title"] = 3
    found = read(table(as_jsonl(folder / "x.jsonl", content)))
    assert [isinstance(sample, UnreadableSample) for sample in found] == [number == 2 for number in range(IMAGES)]
    assert "line 6: title: expected a text" in str(found[2].error)


@pytest.mark.parametrize("ending", WRITERS)
def test_an_image_without_a_caption_in_some_rows_has_those_of_its_other_rows(folder: Path, ending: str) -> None:
    """As in a cell's list. An image without any is a bad sample, which names its first row."""
    content = rows(3)
    for row in (4, 7, 9, 10, 11):
        content[row]["title"] = " " if row == 7 else None
    found = read(table(WRITERS[ending](folder / f"x.{ending}", content)))
    assert [isinstance(sample, UnreadableSample) for sample in found] == [number == 3 for number in range(IMAGES)]
    assert [sample.captions for sample in found[:3]] == [
        [row["title"] for row in content[first : first + 3] if row["title"] not in (None, " ")] for first in (0, 3, 6)
    ]
    assert re.search(r": (line 1[01]|row \d+): title: (missing|empty)", str(found[3].error))


def test_bad_lines_of_a_csv(folder: Path) -> None:
    good = name_of(0)
    path = folder / "x.csv"
    path.write_bytes(
        b"filepath,title\n" + f'{good},fine\n{good}\n{good},a,b\n{good},"a"b\n\n{name_of(1)},fine too\n'.encode() + b"x,\xff\n"
    )
    found = read(table(path))
    errors = [str(sample.error).partition("x.csv: ")[2] for sample in found if isinstance(sample, UnreadableSample)]
    assert [sample.captions for sample in found if isinstance(sample, RawSample)] == [["fine"], ["fine too"]]
    assert [error.partition(": ")[0] for error in errors] == ["line 3", "line 4", "line 5", "line 8"]
    assert "1 cells under 2 columns" in errors[0]
    assert "3 cells under 2 columns: quote cells" in errors[1]
    assert "expected after" in errors[2]
    assert "is not UTF-8: save the table as UTF-8" in errors[3]


def test_spaces_before_a_quote_are_no_part_of_the_cell(folder: Path) -> None:
    path = folder / "x.csv"
    lines = ["filepath, title", f'{name_of(0)}, "A dog runs"', f'{name_of(1)},  "A dog, running"', f'"{name_of(2)}", one']
    path.write_text("".join(f"{line}\n" for line in lines))
    assert [sample.captions for sample in read(table(path))] == [["A dog runs"], ["A dog, running"], ["one"]]


def test_a_carriage_return_in_a_cell_is_one_bad_row(folder: Path) -> None:
    path = folder / "x.csv"
    path.write_bytes(f"filepath,title\n{name_of(0)},one\n{name_of(1)},two\rmore\n{name_of(2)},three\n".encode())
    first, bad, last = read(table(path))
    assert (first.captions, last.captions) == (["one"], ["three"])
    assert "x.csv: line 3: not CSV: a carriage return in a cell without quotes: quote the cell, or remove it" in str(bad.error)


def test_a_quoted_cell_of_a_tsv_may_have_newlines(folder: Path) -> None:
    path = folder / "x.tsv"
    path.write_bytes(f'filepath\ttitle\n{name_of(0)}\t"one\nmore"\n{name_of(1)}\ttwo\n'.encode())
    assert [sample.captions for sample in read(table(path))] == [["one\nmore"], ["two"]]


NO_TABLES: dict[str, tuple[str, bytes, dict[str, Any], str]] = {
    "the wrong separator": (
        "x.csv",
        b"filepath;title\na;b\n",
        {},
        "no column is called .*: set data.source.image_column; its columns are 'filepath;title'; with a semicolon for "
        "`separator` there would be 2 columns",
    ),
    "no such column": (
        "x.csv",
        b"filepath,title\na,b\n",
        {"caption_columns": ["text"]},
        "there is no column 'text'; its columns are 'filepath', 'title'$",
    ),
    "unknown columns": ("x.csv", b"a,title\n", {}, "no column is called filepath, .*; its columns are 'a', 'title'$"),
    "two that could be meant": ("x.csv", b"image,title,text\n", {}, "the columns 'title' and 'text' could each be meant"),
    "a name twice": ("x.csv", b"image,title,title\n", {}, "2 columns are called 'title': rename all but one"),
    "no split column": ("x.csv", b"image,title\n", {"split_column": "split"}, "there is no column 'split'"),
    "an empty file": ("x.csv", b"", {}, "the file is empty"),
    "an empty JSONL": ("x.jsonl", b"", {}, "it has no JSON object"),
    "an empty parquet": ("x.parquet", b"", {}, "not a complete parquet file"),
    "a quote that does not end": (
        "x.csv",
        b'image,title\na,b\nc,"d\ne,f\n',
        {},
        "line 3: a quoted cell that begins here does not end",
    ),
    "a quote before a large file": (
        "x.csv",
        b'image,title\na,"b\n' + b"e,f\n" * 50_000,
        {},
        "line 2: a quoted cell that begins here does not end",
    ),
    "a TSV without quoting, with a caption that begins with a quote": (
        "x.tsv",
        b'caption\timage\nplain\t0.jpg\n"quoted start\t1.jpg\nthree\t2.jpg\nends with a quote"\t3.jpg\nfour\t4.jpg\n',
        {},
        "line 3: a quoted cell that begins here ends 2 lines later and holds tabs: quote each cell that begins with a quote",
    ),
    "a first line for Excel": (
        "x.csv",
        b"\xef\xbb\xbfsep=;\r\nimage;title\r\n",
        {},
        r"its first line \(sep=;\) is for Excel only",
    ),
    "UTF-16": ("x.csv", "image,title\na,b\n".encode("utf-16"), {}, "UTF-16: save it as UTF-8"),
    "CR in the header": ("x.csv", b"image,title\rx\na,b\n", {}, "its header cannot be read .*a carriage return in a cell"),
    "CR alone": ("x.csv", b"image,title\ra,b\rc,d", {}, "lines end with CR only"),
    "gzip": ("x.csv", b"\x1f\x8b\x08\0abc", {}, "a compressed or binary file, not text"),
    "a parquet for a CSV": ("x.csv", b"PAR1abc", {}, "a compressed or binary file, not text"),
    "a CSV for a parquet": ("x.parquet", b"image,title\na,b\n", {}, "not a complete parquet file"),
    "a JSON list": ("x.jsonl", b'[{"image": "a"}]', {}, "its first line is not a JSON object"),
    "an unknown ending": ("x.data", b"image,title\n", {}, "does not show its format: set data.source.format"),
}


@pytest.mark.parametrize(("name", "content", "settings", "sentence"), NO_TABLES.values(), ids=NO_TABLES)
def test_an_invalid_table_is_a_one_sentence_error(
    tmp_path: Path, name: str, content: bytes, settings: dict[str, Any], sentence: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=sentence) as raised:
        read(table(tmp_path / name, **settings))
    assert one_line(str(raised.value)) == str(raised.value)
    with pytest.raises(DataError, match=sentence):
        table(tmp_path / name, **settings).check("train")


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_no_file_or_no_regular_one(tmp_path: Path, ending: str) -> None:
    source = table(tmp_path / f"x.{ending}")
    with pytest.raises(DataError, match=rf"data.source.path: .*x\.{ending} cannot be read \(.*No such file"):
        read(source)
    assert source.count("train", 7) == 7
    os.mkfifo(tmp_path / f"x.{ending}")
    with pytest.raises(DataError, match=r"cannot be read \(.*not a regular file"):
        read(source)


def test_a_parquet_cut_short(folder: Path) -> None:
    path = as_parquet(folder / "x.parquet", rows())
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match="not a complete parquet file"):
        read(table(path))


def test_images_within_a_parquet_are_for_another_source(folder: Path) -> None:
    for cell in (b"x", {"bytes": b"x", "path": None}):
        with pytest.raises(DataError, match="holds images, not their paths: use the source `hf`"):
            read(table(as_parquet(folder / "x.parquet", [{"image": cell, "text": "a"}])))


@pytest.mark.parametrize("separator", ["", ",,", "\\t", "\n", '"'])
def test_no_separator(tmp_path: Path, separator: str) -> None:
    with pytest.raises(ValidationError, match="is not a separator: give one character"):
        table(tmp_path / "x.csv", separator=separator)


CELLS = JSON | TEXT | st.sampled_from([name_of(0), "../secret.jpg", "fifo", "a caption", "train", "val"])


def quoted(cells: list[str]) -> str:
    return ",".join('"' + cell.replace('"', '""') + '"' if draw else cell for draw, cell in enumerate(cells))


@pytest.fixture
def any_table(folder: Path) -> Path:
    os.mkfifo(folder / "fifo")
    return folder


def check_any(source: Source) -> None:
    found = result_of(lambda: read(source)) or []
    assert_raw_or_unreadable(found)
    assert all(sample.image == jpeg((0, 0, 0)) for sample in found if isinstance(sample, RawSample))
    for images in (1, 2):
        assert [str(sample) for sample in result_of(lambda images=images: read(source, images=images)) or []] == [  # type: ignore[misc]
            str(sample) for sample in found
        ]


@FUZZ
@given(data=st.data())
def test_any_text_for_a_csv_gives_samples_or_a_one_sentence_error(any_table: Path, data: st.DataObject) -> None:
    written = st.lists(st.lists(TEXT | CELLS.filter(lambda cell: isinstance(cell, str)), max_size=3).map(quoted), max_size=4)
    body = "filepath,title\n" + data.draw(st.sampled_from(["\n", "\r\n"])).join(data.draw(written))
    raw = body.encode("utf-8", "surrogatepass")
    path = any_table / "fuzz.csv"
    path.write_bytes(data.draw(st.just(raw) | damaged(raw) | st.binary(max_size=60)))
    check_any(table(path, split_column=data.draw(st.sampled_from([None, "title"]))))


@FUZZ
@given(data=st.data())
def test_any_jsonl_gives_samples_or_a_one_sentence_error(any_table: Path, data: st.DataObject) -> None:
    objects = st.fixed_dictionaries({}, optional={"filepath": CELLS, "title": CELLS, "part": CELLS}) | JSON
    raw = "\n".join(map(json.dumps, data.draw(st.lists(objects, max_size=4)))).encode()
    path = any_table / "fuzz.jsonl"
    path.write_bytes(data.draw(st.just(b'{"filepath": "a", "title": "b", "part": "c"}\n' + raw) | damaged(raw)))
    check_any(table(path, split_column=data.draw(st.sampled_from([None, "part"]))))


@FUZZ
@given(data=st.data())
def test_any_bytes_for_a_parquet_give_samples_or_a_one_sentence_error(any_table: Path, data: st.DataObject) -> None:
    path = as_parquet(any_table / "fuzz.parquet", [{"filepath": name_of(0), "title": "a"}] * 7)
    path.write_bytes(data.draw(damaged(path.read_bytes())))
    result_of(lambda: read(table(path)))


def test_a_long_line_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "LONGEST_LINE", 100)
    (folder / "x.csv").write_text("filepath,title\na," + "b" * 200)
    with pytest.raises(DataError, match="a line is longer than"):
        read(table(folder / "x.csv"))


def test_lines_far_into_a_table_are_not_counted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The byte where the row begins is named instead."""
    content = rows()
    content[7]["filepath"] = "none.jpg"
    path = as_csv(folder / "x.csv", content)
    begun: list[int] = []
    begin = lines.Lines.__init__

    def recording(self: lines.Lines, url: str, start: int) -> None:
        begun.append(start)
        begin(self, url, start)

    source = table(path)
    part = source.parts("train", limit=None, part_samples=3)[2]
    monkeypatch.setattr(lines, "COUNTED_BYTES", 0)
    monkeypatch.setattr(lines.Lines, "__init__", recording)
    found = list(source.samples("train", part, image_size=64, seed=0))
    (bad,) = [sample for sample in found if isinstance(sample, UnreadableSample)]
    byte = path.read_bytes().index(b"none")
    assert f"x.csv: the row at byte {byte}: the file {folder}/none.jpg cannot be read" in str(bad.error)
    assert begun == [part.start], "the table is not read from its beginning"
