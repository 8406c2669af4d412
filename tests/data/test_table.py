"""The source `table`: files as pandas, csv, json and pyarrow write them; each part alone gives what the whole gives."""

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas
import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet
from pydantic import ValidationError

from tests.data.test_dataset import jpeg
from tests.data.test_sources import FUZZ, JSON, TEXT, assert_raw_or_unreadable, damaged, result_of
from vldd_dist.config.base import choose
from vldd_dist.control_characters import one_line
from vldd_dist.data.sources.base import Source
from vldd_dist.data.sources.sample import RawSample, UnreadableSample
from vldd_dist.data.sources.tables import index, lines
from vldd_dist.errors import DataError
from vldd_dist.plugins import SOURCES
from vldd_dist.store.store import Store
from vldd_dist.testing.s3_server import S3Server

IMAGES = 12


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of `IMAGES` images, each of another colour, in two folders."""
    for number in range(IMAGES):
        path = tmp_path / "photos" / "abc"[number % 3] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg((number, 0, 0)))
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    return tmp_path


def name_of(number: int) -> str:
    return f"photos/{'abc'[number % 3]}/{number}.jpg"


def rows(captions: int = 1) -> list[dict[str, Any]]:
    return [
        {"filepath": name_of(number), "title": f"photo {number}, view {view}"}
        for number in range(IMAGES)
        for view in range(captions)
    ]


def table(path: Path, **settings: Any) -> Source:
    source: Source = choose(SOURCES, {"name": "table", "path": str(path), **settings})
    return source


def read(source: Source, split: str = "train", images: int = 100, limit: int | None = None) -> list[Any]:
    """The samples of all parts, each read by a source of its own as a worker would."""
    found: list[RawSample | UnreadableSample] = []
    for part in source.parts(split, limit=limit, images=images):
        fresh = type(source).model_validate(source.model_dump())
        found += fresh.samples(split, part, image_size=64, seed=0)
    return found


def said(samples: list[Any]) -> list[tuple[str | None, list[str]]]:
    assert all(isinstance(sample, RawSample) for sample in samples), samples
    return [(sample.identity, sample.captions) for sample in samples]


def as_csv(path: Path, content: list[dict[str, Any]], separator: str = ",") -> Path:
    pandas.DataFrame(content).to_csv(path, index=False, sep=separator)
    return path


def as_jsonl(path: Path, content: list[dict[str, Any]]) -> Path:
    pandas.DataFrame(content).to_json(path, orient="records", lines=True)
    return path


def as_parquet(path: Path, content: list[dict[str, Any]]) -> Path:
    parquet.write_table(pyarrow.Table.from_pylist(content), path, row_group_size=5)
    return path


WRITERS: dict[str, Callable[[Path, list[dict[str, Any]]], Path]] = {
    "csv": as_csv,
    "tsv": lambda path, content: as_csv(path, content, "\t"),
    "jsonl": as_jsonl,
    "parquet": as_parquet,
}


@pytest.mark.parametrize("ending", WRITERS)
@pytest.mark.parametrize("captions", [1, 3])
def test_a_table_of_each_format(folder: Path, ending: str, captions: int) -> None:
    source = table(WRITERS[ending](folder / f"pairs.{ending}", rows(captions)))
    assert source.own_splits() == ("train",)
    assert source.count("train", None) == IMAGES
    found = read(source)
    expected = [(name_of(n), [f"photo {n}, view {v}" for v in range(captions)]) for n in range(IMAGES)]
    assert said(found) == expected
    assert [sample.image for sample in found] == [jpeg((number, 0, 0)) for number in range(IMAGES)]
    assert len({sample.key for sample in found}) == IMAGES
    assert not any(set(sample.key) & set("./") for sample in found)
    for images in (1, 5):
        assert len(source.parts("train", limit=None, images=images)) == -(-IMAGES // images)
        assert read(source, images=images) == found
    for limit in (1, 5, 7, 50):
        assert read(source, images=3, limit=limit) == found[:limit]
        assert source.count("train", limit) == min(limit, IMAGES)
    source.check("train")


@pytest.mark.parametrize("ending", WRITERS)
def test_rows_of_one_image_far_apart(folder: Path, ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table is cut only where no image is on both sides."""
    content = rows(1)
    content.insert(4, content[0] | {"title": "again"})
    content.append(content[9] | {"title": "the end", "filepath": f"./{name_of(8)}"})
    source = table(WRITERS[ending](folder / f"pairs.{ending}", content))
    found = read(source)
    assert found[0].captions == ["photo 0, view 0", "again"]
    assert found[8].captions == ["photo 8, view 0", "the end"]
    assert [sample.identity for sample in found] == [name_of(number) for number in range(IMAGES)]
    # Images 0..3, then 4, 5, 6, 7, then 8 to the end.
    assert len(source.parts("train", limit=None, images=1)) == 6
    assert read(source, images=1) == found
    assert read(source, images=1, limit=9) == found[:9]
    monkeypatch.setattr(index, "MOST_ROWS", 4)
    with pytest.raises(DataError, match=r"sort it by the column 'filepath'"):
        read(source, images=1)


@pytest.mark.parametrize("ending", WRITERS)
def test_splits_by_a_column(folder: Path, ending: str) -> None:
    names = ["train", "validation", "test", "Val", "restval", "train"]
    content = [row | {"part": names[number % 6]} for number, row in enumerate(rows())]
    source = table(WRITERS[ending](folder / f"pairs.{ending}", content), split_column="part")
    assert source.own_splits() == ("train", "val", "test")
    numbers = {"train": [0, 4, 5, 6, 10, 11], "val": [1, 3, 7, 9], "test": [2, 8]}
    for split, expected in numbers.items():
        assert [sample.identity for sample in read(source, split)] == [name_of(number) for number in expected]
        assert read(source, split, images=1) == read(source, split)
        assert source.count(split, None) == len(expected)
    only_test = table(as_csv(folder / "two.csv", [{"image": "a", "text": "b", "s": "test"}]), split_column="s")
    assert only_test.own_splits() == ("train", "test")
    assert read(only_test, "train") == []
    with pytest.raises(DataError, match="the train split has no samples"):
        only_test.check("train")


def test_several_caption_columns_and_lists(folder: Path) -> None:
    content = [{"image": name_of(0), "short": "a", "long": "an a"}]
    found = read(table(as_csv(folder / "x.csv", content), caption_columns=["long", "short"]))
    assert found[0].captions == ["an a", "a"]
    content = [{"image": name_of(0), "captions": ["one", " ", "two "], "more": "three"}]
    for path in (as_jsonl(folder / "x.jsonl", content), as_parquet(folder / "x.parquet", content)):
        assert read(table(path))[0].captions == ["one", "two"]
        assert read(table(path, caption_columns=["captions", "more"]))[0].captions == ["one", "two", "three"]


def test_what_openclip_and_spreadsheets_write(folder: Path) -> None:
    as_csv(folder / "clip.csv", rows(), "\t")
    expected = said(read(table(folder / "clip.csv")))
    assert len(expected) == IMAGES
    # A byte order mark, CRLF, absolute paths, a semicolon, spaces in the header.
    with open(folder / "excel.csv", "w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file, delimiter=";", dialect="excel")
        writer.writerow(["filepath", " title "])
        writer.writerows([[str(folder / row["filepath"]), row["title"]] for row in rows()])
    assert said(read(table(folder / "excel.csv", separator=";"))) == expected
    (folder / "results.txt").write_text("image|caption\n" + "".join(f"{r['filepath']}|{r['title']}\n" for r in rows()))
    assert said(read(table(folder / "results.txt", separator="|", format="csv"))) == expected


def test_newlines_and_quotes_within_cells(folder: Path) -> None:
    content = [row | {"title": f'line {n}\nsecond "line"\r\nthird, {n}'} for n, row in enumerate(rows())]
    path = as_csv(folder / "x.csv", content)
    found = read(table(path))
    assert [sample.captions for sample in found] == [[row["title"]] for row in content]
    assert read(table(path), images=2) == found
    # The line of a row, for a person with an editor: each row is three lines, the header one.
    content[7]["filepath"] = "none.jpg"
    as_csv(path, content)
    for images in (1, 3, 100):
        (bad,) = [sample for sample in read(table(path), images=images) if isinstance(sample, UnreadableSample)]
        assert f"x.csv: line {1 + 7 * 3 + 1}: the file {folder}/none.jpg cannot be read (No such file" in str(bad.error)


def test_a_folder_elsewhere(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("tables")
    content = [row | {"filepath": row["filepath"].removeprefix("photos/")} for row in rows()]
    source = table(as_csv(elsewhere / "x.csv", content), image_folder=str(folder / "photos"))
    assert said(read(source))[3] == ("a/3.jpg", ["photo 3, view 0"])


BAD_CELLS = {
    "a number for a caption": ({"title": 3}, "title: expected a text, not int"),
    "no caption": ({"title": None}, "title: missing"),
    "an empty caption": ({"title": " "}, "title: empty"),
    "a list with a number": ({"title": ["a", 3]}, "title: expected a text, not int"),
    "an empty list": ({"title": []}, "title: empty"),
    "a dictionary": ({"title": {"a": "b"}}, "title: expected a text, not dict"),
    "half a surrogate pair": ({"title": "\ud800"}, "is no UTF-8"),
    "a number for a path": ({"filepath": 3}, "filepath: expected a text, not int"),
    "no path": ({"filepath": None}, "filepath: missing"),
    "an empty path": ({"filepath": ""}, "filepath: empty"),
    "a folder": ({"filepath": "photos"}, "not a regular file"),
    "a NUL": ({"filepath": "a\0b"}, "no name that a file can have"),
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


def test_a_bad_row_of_several_spoils_its_image_only(folder: Path) -> None:
    content = rows(2)
    content[5]["title"] = ""
    found = read(table(as_csv(folder / "x.csv", content)))
    assert [isinstance(sample, UnreadableSample) for sample in found] == [number == 2 for number in range(IMAGES)]
    assert "line 7: title: missing" in str(found[2].error) or "line 7: title: empty" in str(found[2].error)


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
    assert "is no UTF-8: save the table as UTF-8" in errors[3]


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
    "two that could be meant": ("x.csv", b"image,title,text\n", {}, "the columns 'title' and 'text' could both be meant"),
    "a name twice": ("x.csv", b"image,title,title\n", {}, "2 columns are called 'title': rename all but one"),
    "no split column": ("x.csv", b"image,title\n", {"split_column": "split"}, "there is no column 'split'"),
    "an empty file": ("x.csv", b"", {}, "it is empty"),
    "an empty JSONL": ("x.jsonl", b"", {}, "it has no JSON object"),
    "an empty parquet": ("x.parquet", b"", {}, "not a whole parquet file"),
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
    "UTF-16": ("x.csv", "image,title\na,b\n".encode("utf-16"), {}, "UTF-16: save it as UTF-8"),
    "CR alone": ("x.csv", b"image,title\ra,b\rc,d", {}, "lines end with CR alone"),
    "gzip": ("x.csv", b"\x1f\x8b\x08\0abc", {}, "no text file but a compressed or binary one"),
    "a parquet for a CSV": ("x.csv", b"PAR1abc", {}, "no text file but a compressed or binary one"),
    "a CSV for a parquet": ("x.parquet", b"image,title\na,b\n", {}, "not a whole parquet file"),
    "a JSON list": ("x.jsonl", b'[{"image": "a"}]', {}, "its first line is no JSON object"),
    "an unknown ending": ("x.data", b"image,title\n", {}, "does not tell its format: set data.source.format"),
}


@pytest.mark.parametrize(("name", "content", "settings", "sentence"), NO_TABLES.values(), ids=NO_TABLES)
def test_a_table_that_is_none_is_one_sentence(
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
    with pytest.raises(DataError, match="not a whole parquet file"):
        read(table(path))


def test_images_within_a_parquet_are_for_another_source(folder: Path) -> None:
    for cell in (b"x", {"bytes": b"x", "path": None}):
        with pytest.raises(DataError, match="holds images, not their paths: name the source `hf`"):
            read(table(as_parquet(folder / "x.parquet", [{"image": cell, "text": "a"}])))


@pytest.mark.parametrize("separator", ["", ",,", "\\t", "\n", '"'])
def test_no_separator(tmp_path: Path, separator: str) -> None:
    with pytest.raises(ValidationError, match="is no separator: give one character"):
        table(tmp_path / "x.csv", separator=separator)


def test_a_missing_image_or_a_wrong_column_is_said_before_anything_runs(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = as_csv(folder / "x.csv", rows())
    with pytest.raises(DataError, match=r"file none/.* cannot be read .*of the first 12 samples of train none can be read"):
        table(path, image_folder="none").check("train")
    (folder / name_of(1)).unlink()
    (folder / name_of(2)).write_bytes(b"no image")
    table(path).check("train")
    assert "2 of the first 12 samples of train cannot be read: " in caplog.text


def test_the_version_is_that_of_the_content(folder: Path) -> None:
    path = as_csv(folder / "x.csv", rows())

    def version() -> Any:
        source = table(path)
        return source.describe("train", source.parts("train", limit=None, images=5)[0], seed=0)

    first = version()
    os.utime(path, (1, 1))
    assert version() == first
    path.write_text(path.read_text().replace("photo 7", "image 7"))
    assert version() != first


def test_a_table_and_images_on_a_server(s3: S3Server, folder: Path) -> None:
    store = Store("s3://tables/x")
    if not store.fs.exists("tables"):
        store.fs.mkdir("tables")
    for number in range(IMAGES):
        store.write(name_of(number), (folder / name_of(number)).read_bytes())
    for ending in ("csv", "parquet"):
        path = WRITERS[ending](folder / f"pairs.{ending}", rows(2))
        store.write(path.name, path.read_bytes())
        remote, local = table(Path("x")), table(path)
        remote = type(remote).model_validate(remote.model_dump() | {"path": store.url_of(path.name)})
        found = read(remote, images=6)
        assert said(found) == said(read(local))
        assert [sample.image for sample in found] == [sample.image for sample in read(local)]
        assert "ETag" in remote.describe("train", remote.parts("train", limit=1, images=1)[0], seed=0)["table"]
    store.write("bad.csv", f"filepath,title\nnone.jpg,a\n{store.url_of(name_of(1))},b\ns3://other/x,c\n".encode())
    remote = type(remote).model_validate({"name": "table", "path": store.url_of("bad.csv")})
    missing, good, outside = read(remote)
    assert "line 2: the file s3://tables/x/none.jpg cannot be read" in str(missing.error)
    assert good.identity == name_of(1)
    assert "line 4: s3://other/x leads out" in str(outside.error)


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
def test_any_text_for_a_csv_is_samples_or_one_sentence(any_table: Path, data: st.DataObject) -> None:
    written = st.lists(st.lists(TEXT | CELLS.filter(lambda cell: isinstance(cell, str)), max_size=3).map(quoted), max_size=4)
    body = "filepath,title\n" + data.draw(st.sampled_from(["\n", "\r\n"])).join(data.draw(written))
    raw = body.encode("utf-8", "surrogatepass")
    path = any_table / "fuzz.csv"
    path.write_bytes(data.draw(st.just(raw) | damaged(raw) | st.binary(max_size=60)))
    check_any(table(path, split_column=data.draw(st.sampled_from([None, "title"]))))


@FUZZ
@given(data=st.data())
def test_any_jsonl_is_samples_or_one_sentence(any_table: Path, data: st.DataObject) -> None:
    objects = st.fixed_dictionaries({}, optional={"filepath": CELLS, "title": CELLS, "part": CELLS}) | JSON
    raw = "\n".join(map(json.dumps, data.draw(st.lists(objects, max_size=4)))).encode()
    path = any_table / "fuzz.jsonl"
    path.write_bytes(data.draw(st.just(b'{"filepath": "a", "title": "b", "part": "c"}\n' + raw) | damaged(raw)))
    check_any(table(path, split_column=data.draw(st.sampled_from([None, "part"]))))


@FUZZ
@given(data=st.data())
def test_any_bytes_for_a_parquet_are_samples_or_one_sentence(any_table: Path, data: st.DataObject) -> None:
    path = as_parquet(any_table / "fuzz.parquet", [{"filepath": name_of(0), "title": "a"}] * 7)
    path.write_bytes(data.draw(damaged(path.read_bytes())))
    result_of(lambda: read(table(path)))


def test_a_long_line_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "LONGEST_LINE", 100)
    (folder / "x.csv").write_text("filepath,title\na," + "b" * 200)
    with pytest.raises(DataError, match="a line is longer than"):
        read(table(folder / "x.csv"))
