"""The source `table`: the parts, read separately, give the samples of the whole table, for files of all common programs."""

import csv
import os
from pathlib import Path
from typing import Any

import pytest

from tests.data.sample_files import jpeg
from tests.data.tables import IMAGES, WRITERS, as_csv, as_jsonl, as_parquet, make_images, name_of, read, rows, said, table
from vldd_dist.data.sources.sample import UnreadableSample
from vldd_dist.data.sources.tables import index
from vldd_dist.errors import DataError, UnusableHere
from vldd_dist.store.store import Store
from vldd_dist.testing.servers.s3_server import S3Server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_images(tmp_path)
    return tmp_path


@pytest.mark.parametrize("ending", WRITERS)
@pytest.mark.parametrize("captions", [1, 3])
def test_a_table_of_each_format(folder: Path, ending: str, captions: int) -> None:
    source = table(WRITERS[ending](folder / f"pairs.{ending}", rows(captions)))
    assert source.own_splits() == ("train",)
    assert source.count("train", None) == IMAGES
    found = read(source)
    expected = [(name_of(n), [f"photo {n}, view {v}" for v in range(captions)]) for n in range(IMAGES)]
    assert said(found) == expected
    assert [sample.image for sample in found] == [jpeg((20 * number, 0, 0)) for number in range(IMAGES)]
    assert len({sample.key for sample in found}) == IMAGES
    assert not any(set(sample.key) & set("./") for sample in found)
    for images in (1, 5):
        assert len(source.parts("train", limit=None, part_samples=images)) == -(-IMAGES // images)
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
    assert len(source.parts("train", limit=None, part_samples=1)) == 6
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


@pytest.mark.parametrize("ending", WRITERS)
def test_an_image_with_rows_in_two_splits_is_refused(folder: Path, ending: str) -> None:
    """Before anything is prepared. A row with an unknown split is a bad sample, which names no other split."""
    content = [row | {"part": "val" if number < 4 else "train"} for number, row in enumerate(rows(2))]
    content[2]["part"] = "nowhere"
    source = table(WRITERS[ending](folder / f"a.{ending}", content), split_column="part")
    assert source.own_splits() == ("train", "val")
    content[7]["part"] = "test"
    source = table(WRITERS[ending](folder / f"b.{ending}", content), split_column="part")
    with pytest.raises(DataError, match=rf"b\.{ending}: {name_of(3)} has rows in train and in test: give all its rows"):
        source.own_splits()


def test_several_caption_columns_and_lists(folder: Path) -> None:
    content = [{"image": name_of(0), "short": "a", "long": "an a"}]
    found = read(table(as_csv(folder / "x.csv", content), caption_columns=["long", "short"]))
    assert found[0].captions == ["an a", "a"]
    content = [{"image": name_of(0), "captions": ["one", " ", "two "], "more": "three"}]
    for path in (as_jsonl(folder / "x.jsonl", content), as_parquet(folder / "x.parquet", content)):
        assert read(table(path))[0].captions == ["one", "two"]
        assert read(table(path, caption_columns=["captions", "more"]))[0].captions == ["one", "two", "three"]


def test_an_image_may_have_fewer_captions_than_there_are_columns(folder: Path) -> None:
    """CSV has an empty cell then, parquet and JSONL a null."""
    content = [{"image": name_of(n), "a": "one" if n == 1 else None, "b": "two" if n else None} for n in range(3)]
    for write, ending in ((as_csv, "csv"), (as_jsonl, "jsonl"), (as_parquet, "parquet")):
        found = read(table(write(folder / f"x.{ending}", content), caption_columns=["a", "b"]))
        assert said(found[1:]) == [(name_of(1), ["one", "two"]), (name_of(2), ["two"])]
        assert isinstance(found[0], UnreadableSample)
    assert "a, b: missing: add a text, or remove the row" in str(found[0].error)


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
    # Errors name the line as an editor shows it: each row has three lines, the header one.
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


def test_a_missing_image_or_a_wrong_column_is_reported_before_anything_runs(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = as_csv(folder / "x.csv", rows())
    with pytest.raises(UnusableHere, match=r"data\.source\.image_folder: none is missing or empty .*correct the path"):
        table(path, image_folder="none").check("train")
    with pytest.raises(DataError, match=r"file .*/photos/photos/.* cannot be read .*none of the first 12 samples of train can"):
        table(path, image_folder=str(folder / "photos")).check("train")
    (folder / name_of(1)).unlink()
    (folder / name_of(2)).write_bytes(b"no image")
    table(path).check("train")
    assert "2 of the first 12 samples of train cannot be read: " in caplog.text


def test_the_version_is_that_of_the_content(folder: Path) -> None:
    path = as_csv(folder / "x.csv", rows())

    def version() -> Any:
        source = table(path)
        return source.describe("train", source.parts("train", limit=None, part_samples=5)[0], seed=0)

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
        assert "ETag" in remote.describe("train", remote.parts("train", limit=1, part_samples=1)[0], seed=0)["table"]
    store.write("bad.csv", f"filepath,title\nnone.jpg,a\n{store.url_of(name_of(1))},b\ns3://other/x,c\n".encode())
    remote = type(remote).model_validate({"name": "table", "path": store.url_of("bad.csv")})
    missing, good, outside = read(remote)
    assert "line 2: the file s3://tables/x/none.jpg cannot be read" in str(missing.error)
    assert good.identity == name_of(1)
    assert "line 4: s3://other/x leads out" in str(outside.error)
