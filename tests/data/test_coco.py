"""The source `coco`: caption files in the format of COCO 2014 and 2017."""

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.data.damaged_inputs import FUZZ, JSON, assert_raw_or_unreadable, result_of
from tests.data.sample_files import jpeg
from tests.data.small_sources import COCO_NAMES, captions_file, coco, identity, karpathy
from tests.data.tables import read, said
from vldd_dist.config.base import choose
from vldd_dist.control_characters import one_line
from vldd_dist.data.sources.sample import RawSample, UnreadableSample
from vldd_dist.errors import DataError
from vldd_dist.plugins import SOURCES


@pytest.mark.parametrize("year", COCO_NAMES)
def test_images_in_the_order_of_the_file_with_their_captions(tmp_path: Path, year: str) -> None:
    source = coco(tmp_path, year)
    assert source.own_splits() == ("train", "val")
    found = read(source)
    assert said(found) == [
        (f"train/{COCO_NAMES[year].format(split='train', id=n)}", [f"photo {n}, view {v}" for v in range(5)])
        for n in (9, 3, 7, 5)
    ]
    assert [sample.image for sample in found] == [jpeg((20 * number, 0, 0)) for number in (9, 3, 7, 5)]
    assert [captions[0] for _, captions in said(read(source, "val"))] == ["photo 4, view 0", "photo 2, view 0"]
    assert len({sample.key for sample in found}) == 4
    assert read(source, images=1) == read(source, images=3) == found
    assert read(source, images=2, limit=3) == found[:3]
    assert (source.count("train", None), source.count("train", 3)) == (4, 3)
    source.check("val")


def test_an_image_of_one_folder_is_the_same_in_every_split(tmp_path: Path) -> None:
    source = coco(tmp_path)
    for path in (tmp_path / "val2017").iterdir():
        path.rename(tmp_path / "train2017" / path.name)
    together = type(source).model_validate(source.model_dump() | {"val_images": str(tmp_path / "train2017")})
    assert said(read(together, "val"))[0][0] == "000000000004.jpg"
    assert identity(together) != identity(source)


@pytest.mark.parametrize("spelling", ["{}/", "{}/.", "{}/../train2017"])
def test_a_folder_has_several_spellings(tmp_path: Path, spelling: str) -> None:
    source = coco(tmp_path)
    for path in (tmp_path / "val2017").iterdir():
        path.rename(tmp_path / "train2017" / path.name)
    val_images = spelling.format(tmp_path / "train2017")
    together = type(source).model_validate(source.model_dump() | {"val_images": val_images})
    assert said(read(together, "val"))[0][0] == "000000000004.jpg"


def test_another_caption_is_another_version(tmp_path: Path) -> None:
    source = coco(tmp_path)
    first = identity(source)
    path = tmp_path / "annotations" / "captions_train2017.json"
    os.utime(path, (1, 1))
    assert identity(source) == first
    path.write_text(path.read_text().replace("photo 9, view 0", "image 9, view 0"))
    assert identity(source) != first


BAD_IMAGES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no entry": (lambda tree: tree["images"].insert(0, 3), r"file_name: missing, or not a text"),
    "no name": (lambda tree: tree["images"][0].pop("file_name"), r"file_name: missing, or not a text"),
    "a number for a name": (lambda tree: tree["images"][0].update(file_name=3), "file_name: missing, or not a text"),
    "a parent": (lambda tree: tree["images"][0].update(file_name="../x.jpg"), r"leads out of data\.source\.train_images"),
    "an absolute name": (lambda tree: tree["images"][0].update(file_name="/etc/passwd"), "leads out of"),
    "no file": (lambda tree: tree["images"][0].update(file_name="none.jpg"), r"train2017/none\.jpg cannot be read"),
    "no captions": (
        lambda tree: tree["images"].insert(0, {"id": 77, "file_name": "a"}),
        r"the annotations of image_id 77: empty",
    ),
    "a list for an id": (lambda tree: tree["images"].insert(0, {"id": [], "file_name": "a"}), "id: missing, or neither"),
    "a number for a caption": (lambda tree: tree["annotations"][-1].update(caption=3), "expected a list of texts"),
}


@pytest.mark.parametrize(("change", "sentence"), BAD_IMAGES.values(), ids=BAD_IMAGES)
def test_a_bad_image_is_one_bad_sample(tmp_path: Path, change: Callable[[dict[str, Any]], Any], sentence: str) -> None:
    found = read(coco(tmp_path, change=change), images=2)
    (bad,) = [sample for sample in found if isinstance(sample, UnreadableSample)]
    with pytest.raises(DataError, match=rf"captions_train2017\.json: images\[0\]: .*{sentence}"):
        raise bad.error
    assert len([sample for sample in found if isinstance(sample, RawSample)]) >= 3


NO_FILES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no images": (lambda tree: tree.pop("images"), "has the lists `images` and `annotations`"),
    "no annotations": (lambda tree: tree.pop("annotations"), "has the lists `images` and `annotations`"),
    "a Karpathy file": (
        lambda tree: tree["images"][0].update(sentences=[]),
        "this is a Karpathy-style file, .*: use the source `karpathy`",
    ),
    "instances": (
        lambda tree: tree["annotations"][0].pop("caption"),
        r"annotations\[0\]\.caption: missing: files of instances",
    ),
    "an image that is not there": (
        lambda tree: tree["annotations"][2].update(image_id=1),
        r"annotations\[2\]\.image_id: the file has no image 1",
    ),
    "an id twice": (lambda tree: tree["images"][1].update(id=9), r"images\[1\]\.id: another image has the id 9 too"),
}


@pytest.mark.parametrize(("change", "sentence"), NO_FILES.values(), ids=NO_FILES)
def test_an_invalid_caption_file_is_a_one_sentence_error(
    tmp_path: Path, change: Callable[[dict[str, Any]], Any], sentence: str
) -> None:
    with pytest.raises(DataError, match=rf"captions_train2017\.json: .*{sentence}"):
        read(coco(tmp_path, change=change))


def test_no_json_no_file_and_no_folder(tmp_path: Path) -> None:
    source = coco(tmp_path)
    path = tmp_path / "annotations" / "captions_train2017.json"
    path.write_bytes(b"[" * 100_000)
    with pytest.raises(DataError, match="not JSON, or nested too deeply"):
        read(source)
    path.unlink()
    fresh = type(source).model_validate(source.model_dump())
    with pytest.raises(DataError, match=r"data\.source\.train: .*captions_train2017\.json cannot be read"):
        fresh.check("train")
    assert fresh.count("train", 5) == 5
    with pytest.raises(ValidationError, match="val and val_images belong together"):
        type(source).model_validate(source.model_dump() | {"val_images": None})


def test_a_coco_file_for_the_source_karpathy_names_this_one(tmp_path: Path) -> None:
    source = karpathy(tmp_path).source
    (tmp_path / "data.json").write_text(json.dumps(captions_file(tmp_path, "train", [1])))
    with pytest.raises(DataError, match=r"data\.json: this is a COCO file, .*: use the source `coco`"):
        source.check("train")


@FUZZ
@given(
    images=st.lists(JSON | st.fixed_dictionaries({}, optional={"id": JSON, "file_name": JSON | st.just("0.jpg")}), max_size=3),
    annotations=st.lists(JSON | st.fixed_dictionaries({}, optional={"image_id": JSON, "caption": JSON}), max_size=3),
    ids=st.lists(st.integers(0, 3), max_size=3),
)
def test_any_caption_file_gives_samples_or_a_one_sentence_error(
    tmp_path: Path, images: list[Any], annotations: list[Any], ids: list[int]
) -> None:
    (tmp_path / "0.jpg").write_bytes(jpeg())
    images += [{"id": number, "file_name": "0.jpg"} for number in ids]
    annotations += [{"image_id": number, "caption": "a"} for number in ids]
    (tmp_path / "x.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    source = choose(SOURCES, {"name": "coco", "train": str(tmp_path / "x.json"), "train_images": str(tmp_path)})
    found = result_of(lambda: read(source)) or []
    assert_raw_or_unreadable(found)
    assert all(one_line(sample.identity) == sample.identity for sample in found if isinstance(sample, RawSample))


def test_remote_images_are_read_at_once_and_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = coco(tmp_path, change=lambda tree: tree["images"][1].update(file_name="none.jpg"))
    local = read(source)
    images = {f"/coco/{path.name}": path.read_bytes() for path in (tmp_path / "train2017").iterdir()}
    fsspec.filesystem("memory").pipe(images)
    met, cat_file = threading.Barrier(2), MemoryFileSystem.cat_file

    def cat(self: MemoryFileSystem, *args: Any, **options: Any) -> Any:
        # Nobody passes alone.
        met.wait(60)
        return cat_file(self, *args, **options)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", cat)
    found = read(type(source).model_validate(source.model_dump() | {"train_images": "memory://coco"}))
    assert [sample.image for sample in found if isinstance(sample, RawSample)] == [
        sample.image for sample in local if isinstance(sample, RawSample)
    ]
    assert [isinstance(sample, RawSample) for sample in found] == [True, False, True, True]
    assert "images[1]: the file memory://coco/none.jpg cannot be read" in str(found[1].error)
