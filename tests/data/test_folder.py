"""The source `folder`: images with a text file of captions beside each."""

import os
from pathlib import Path
from typing import Any

import pytest

from tests.data.sample_files import jpeg, pair
from tests.data.small_sources import identity
from tests.data.tables import read, said
from vldd_dist.config.base import choose
from vldd_dist.control_characters import one_line
from vldd_dist.data.sources.base import Source, parts_of
from vldd_dist.data.sources.sample import RawSample, UnreadableSample
from vldd_dist.errors import DataError
from vldd_dist.plugins import SOURCES
from vldd_dist.store.store import Store
from vldd_dist.testing.servers.s3_server import S3Server


def folder(path: Path | str, **settings: Any) -> Source:
    source: Source = choose(SOURCES, {"name": "folder", "path": str(path), **settings})
    return source


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Seven pairs in the folder layouts of kohya and img2dataset, and files that are no pairs."""
    names = ["b.jpg", "a.JPG", "10_dogs/a.png", "10_dogs/b.webp", "z/y/x.jpeg", "a b/ä.jpg", "v1.0/c.jpg"]
    for number, name in enumerate(names):
        pair(tmp_path / name, f"caption {number}\nanother {number}\n", number)
    (tmp_path / "README.md").write_text("no image")
    (tmp_path / "notes.txt").write_text("no captions")
    pair(tmp_path / ".hidden" / "a.jpg", "hidden")
    pair(tmp_path / "._a.jpg", "hidden")
    (tmp_path / "loop").symlink_to(tmp_path)
    return tmp_path


SORTED = [("10_dogs/a.png", 2), ("10_dogs/b.webp", 3), ("a b/ä.jpg", 5), ("a.JPG", 1), ("b.jpg", 0), ("v1.0/c.jpg", 6)]
SORTED.append(("z/y/x.jpeg", 4))


def test_images_and_their_captions_in_the_order_of_paths(tree: Path) -> None:
    source = folder(tree)
    assert source.own_splits() == ("train",)
    found = read(source)
    assert said(found) == [(name, [f"caption {number}", f"another {number}"]) for name, number in SORTED]
    assert [sample.image for sample in found] == [jpeg((20 * number, 0, 0)) for _, number in SORTED]
    assert len({sample.key for sample in found}) == 7
    assert not any(set(sample.key) & set("./") for sample in found)
    assert read(source, images=1) == read(source, images=3) == found
    assert len(source.parts("train", limit=None, part_samples=3)) == 3
    assert read(source, images=2, limit=5) == found[:5]
    assert (source.count("train", None), source.count("train", 5)) == (7, 5)
    source.check("train")


def test_folders_that_are_splits(tree: Path) -> None:
    for number, name in enumerate(["train/a.jpg", "validation/a.jpg", "test/x/a.jpg", "z/test/a.jpg"]):
        pair(tree / name, f"{number}")
    source = folder(tree)
    assert source.own_splits() == ("train", "val", "test")
    assert said(read(source, "val")) == [("validation/a.jpg", ["1"])]
    assert said(read(source, "test")) == [("test/x/a.jpg", ["2"])]
    assert [sample.identity for sample in read(source)] == sorted(
        [*(name for name, _ in SORTED), "train/a.jpg", "z/test/a.jpg"]
    )


@pytest.mark.parametrize(
    ("captions", "sentence"),
    [
        (None, r"00\.txt: missing: write one caption per line, or remove bad/00\.jpg"),
        ("", r"00\.txt: empty"),
        (" \n\n", r"00\.txt: empty"),
        (b"\xff\xfe", r"00\.txt: not UTF-8: save it as UTF-8"),
    ],
)
def test_a_pair_without_captions_is_one_bad_sample(tree: Path, captions: str | bytes | None, sentence: str) -> None:
    pair(tree / "bad" / "00.jpg", captions)
    found = read(folder(tree))
    assert len(found) == 8
    (bad,) = [sample for sample in found if isinstance(sample, UnreadableSample)]
    with pytest.raises(DataError, match=sentence):
        raise bad.error
    assert one_line(str(bad.error)) == str(bad.error)


def test_a_byte_order_mark_and_another_extension(tree: Path) -> None:
    (tree / "b.caption").write_bytes(b"\xef\xbb\xbfone\r\ntwo")
    found = read(folder(tree, caption_extension="caption"))
    assert [sample.captions for sample in found if isinstance(sample, RawSample)] == [["one", "two"]]


def test_only_line_ends_separate_captions(tmp_path: Path) -> None:
    """Text that is copied from pages and word processors has other separators within a line."""
    pasted = "one\u2028still one\vand\x85one"
    for number, end in enumerate(("\n", "\r\n", "\r")):
        pair(tmp_path / f"{number}.jpg", f"{pasted}{end}two{end}", number)
    assert [captions for _, captions in said(read(folder(tmp_path)))] == [[pasted, "two"]] * 3


def test_an_image_of_another_format_with_captions_is_a_bad_sample(tmp_path: Path) -> None:
    """A tar of the same files has as many bad samples."""
    for number, name in enumerate(["0.jpg", "1.bmp", "2.HEIC", "val/3.jpg", "val/4.tiff"]):
        pair(tmp_path / name, "x", number)
    pair(tmp_path / "without.gif", None)
    pair(tmp_path / "converted.jpg", "x")
    pair(tmp_path / "converted.heic", "x")
    source = folder(tmp_path)
    assert (source.count("train", None), source.count("val", None)) == (4, 2)
    errors = [
        str(sample.error) for split in ("train", "val") for sample in read(source, split, images=1) if hasattr(sample, "error")
    ]
    sentence = "only jpg, jpeg, png, webp are read: convert it, or remove it"
    assert errors == [f"{tmp_path}/{name}: {sentence}" for name in ("1.bmp", "2.HEIC", "val/4.tiff")]


def test_captions_without_an_image_are_counted_once(tree: Path, caplog: pytest.LogCaptureFixture) -> None:
    pair(tree / "val" / "1.jpg", "x")
    (tree / "val" / "2.txt").write_text("its image is lost")
    source = folder(tree)
    for split in source.own_splits():
        source.check(split)
    sentence = f"data.source.path: 2 .txt files without an image beside them are not used; the first is {tree}/notes.txt"
    assert caplog.messages == [sentence]


def test_the_folder_of_a_split_that_is_a_link_is_refused(tree: Path) -> None:
    """Its images would be left out, and the split made from those of train."""
    pair(tree / "test" / "1.jpg", "x")
    (tree / "testing").symlink_to("test")
    assert said(read(folder(tree), "test")) == [("test/1.jpg", ["x"])]
    pair(tree.parent / "elsewhere" / "1.jpg", "x")
    (tree / "Val").symlink_to(tree.parent / "elsewhere")
    with pytest.raises(DataError, match=r"/Val is a link to a folder, and these are not followed: put the val folder itself"):
        folder(tree).own_splits()


@pytest.mark.parametrize(("name", "split"), [("val2017", "val"), ("test_images", "test"), ("Validation-2", "val")])
def test_a_folder_whose_name_begins_like_a_split_is_not_trained_on(tree: Path, name: str, split: str) -> None:
    for harmless in ("train2017", "valley", "contest", "my test"):
        pair(tree / harmless / "1.jpg", "x")
    assert folder(tree).own_splits() == ("train",)
    pair(tree / name / "1.jpg", "x")
    with pytest.raises(
        DataError, match=rf"/{name} would be trained on, because it is not called {split}: rename it to {split}, or"
    ):
        folder(tree).own_splits()


def test_what_is_no_file_is_not_waited_for(tree: Path) -> None:
    os.mkfifo(tree / "f.jpg")
    (tree / "f.txt").write_text("f")
    (tree / "g.jpg").symlink_to("nowhere")
    (tree / "g.txt").write_text("g")
    pair(tree / "h.jpg", None)
    os.mkfifo(tree / "h.txt")
    errors = [str(sample.error) for sample in read(folder(tree)) if isinstance(sample, UnreadableSample)]
    assert len(errors) == 3
    assert "f.jpg cannot be read (not a regular file)" in errors[0]
    assert "g.jpg cannot be read (No such file" in errors[1]
    assert "h.txt cannot be read (not a regular file)" in errors[2]


def test_no_folder_or_no_images(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.source\.path: .*/none is not a folder: correct the path"):
        folder(tmp_path / "none").check("train")
    assert folder(tmp_path / "none").count("train", 3) == 3
    with pytest.raises(DataError, match=r"has no images \(jpg, jpeg, png, webp\)"):
        folder(tmp_path).own_splits()


def test_two_images_with_one_caption_file_are_named(tree: Path) -> None:
    """Each would be a wrong answer for the other's captions."""
    pair(tree / "10_dogs" / "a.webp", "the same file", 9)
    with pytest.raises(DataError, match=r"10_dogs/a\.png and 10_dogs/a\.webp have the same caption file, 10_dogs/a\.txt"):
        folder(tree).own_splits()


def test_a_path_that_only_a_shell_would_expand_is_refused() -> None:
    with pytest.raises(ValueError, match=r"path: ~/photos: ~ is not expanded here: write the whole path"):
        folder("~/photos")


def test_a_subfolder_that_cannot_be_listed_is_an_error(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hidden subfolder is ignored."""
    scandir = os.scandir

    def refusing(path: Any) -> Any:
        if Path(path).name in refused:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    refused = {".hidden"}
    assert len(read(folder(tree))) == 7
    refused = {"10_dogs"}
    with pytest.raises(DataError, match=r"data\.source\.path: .* cannot be read \(.*Permission denied: '.*/10_dogs'\)"):
        folder(tree).check("train")


def test_changed_images_and_captions_are_another_version(tree: Path) -> None:
    first = identity(folder(tree))
    assert identity(folder(tree)) == first
    (tree / "z/y/x.txt").write_text("other")
    second = identity(folder(tree))
    assert second != first
    pair(tree / "new.jpg", "new")
    third = identity(folder(tree))
    assert third not in (first, second)
    assert identity(folder(tree.rename(tree.parent / "moved"))) == third


def test_a_folder_on_a_server(s3: S3Server, tree: Path) -> None:
    store = Store("s3://folders/x")
    if not store.fs.exists("folders"):
        store.fs.mkdir("folders")
    for path in tree.rglob("*.*"):
        if path.is_file() and "loop" not in path.parts:
            store.write(str(path.relative_to(tree)), path.read_bytes())
    store.write("none.jpg", b"x")
    found = read(folder(store.url), images=5)
    assert [sample.captions for sample in read(folder(tree))] == [
        sample.captions for sample in found if isinstance(sample, RawSample)
    ]
    (bad,) = [sample for sample in found if isinstance(sample, UnreadableSample)]
    assert "s3://folders/x/none.txt: missing" in str(bad.error)
    first = identity(folder(store.url))
    store.write("b.txt", b"other")
    assert identity(folder(store.url)) != first


def test_a_large_folder_has_larger_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker of each part lists the whole folder."""
    for number in range(9):
        pair(tmp_path / f"{number}.jpg", "x")
    monkeypatch.setattr("vldd_dist.data.sources.folder.MOST_PARTS", 4)
    source = folder(tmp_path)
    assert source.parts("train", limit=None, part_samples=3) == parts_of(9, 3)
    assert source.parts("train", limit=8, part_samples=2) == parts_of(8, 2)
    assert source.parts("train", limit=None, part_samples=2) == parts_of(9, 3)
    assert source.parts("train", limit=None, part_samples=1) == parts_of(9, 3)
