"""The source `hf`: folders that `datasets` loads, and the errors without a network."""

import shutil
import time
from pathlib import Path
from typing import Any

import datasets
import pandas
import pytest
from pydantic import ValidationError

from tests.data.sample_files import jpeg
from tests.data.small_sources import HF_SPLITS, hf
from tests.data.tables import read, said
from vldd_dist.control_characters import one_line
from vldd_dist.data.sources.base import Part, Source
from vldd_dist.data.sources.hf_loading import Rows
from vldd_dist.data.sources.sample import RawSample, UnreadableSample
from vldd_dist.data.sources.shards import Shards
from vldd_dist.errors import DataError, UnusableHere

ROWS = {"train": 7, "validation": 3}


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """A folder for the library's imagefolder builder, with a metadata.csv for each split."""
    for split, count in ROWS.items():
        folder = tmp_path / "images" / split
        folder.mkdir(parents=True)
        for number in range(count):
            (folder / f"{number}.jpg").write_bytes(jpeg((20 * number, 0, 0)))
        rows = [{"file_name": f"{n}.jpg", "text": f"{split} {n}", "number": n} for n in range(count)]
        pandas.DataFrame(rows).to_csv(folder / "metadata.csv", index=False)
    return tmp_path / "images"


@pytest.fixture
def loaded(image_folder: Path, tmp_path: Path) -> datasets.DatasetDict:
    """The folder as loaded by the library, with a list of captions for each image."""
    found = datasets.load_dataset(str(image_folder), cache_dir=str(tmp_path / "cache"))
    return found.map(lambda row: {"captions": [row["text"], row["text"].upper()]})


@pytest.fixture
def parquet_folder(loaded: datasets.DatasetDict, tmp_path: Path) -> Path:
    """Parquet files that contain images, with the library's names: three of the training split, one of validation."""
    folder = tmp_path / "parquet"
    folder.mkdir()
    loaded = loaded.map(lambda row: {"image": {"bytes": jpeg((20 * row["number"], 0, 0)), "path": None}})
    for shard in range(3):
        loaded["train"].shard(3, shard, contiguous=True).to_parquet(folder / f"train-{shard:05d}-of-00003.parquet")
    loaded["validation"].to_parquet(folder / "validation-00000-of-00001.parquet")
    return folder


def check_all(source: Source, parts: int, captions: list[list[str]]) -> None:
    assert source.own_splits() == ("train", "val")
    found = read(source, images=2)
    assert [sample.captions for sample in found] == captions
    assert [sample.image for sample in found] == [jpeg((20 * number, 0, 0)) for number in range(7)]
    assert len({sample.key for sample in found}) == 7
    assert not any(set(sample.key) & set("./") for sample in found)
    assert len(source.parts("train", limit=None, part_samples=2)) == parts
    # A preparation refuses more samples than a part states.
    for part in source.parts("train", limit=None, part_samples=2):
        given = list(source.samples("train", part, image_size=8, seed=0))
        assert part.samples is None or len(given) <= part.samples
    assert read(source, images=100) == found
    assert read(source, images=2, limit=5) == found[:5]
    assert len(read(source, "val")) == 3
    source.check("train")


def test_a_folder_of_images(image_folder: Path) -> None:
    check_all(hf(image_folder), 1, [[f"train {number}"] for number in range(7)])


def test_parquet_that_the_library_wrote(parquet_folder: Path) -> None:
    both = [[f"train {number}", f"TRAIN {number}"] for number in range(7)]
    check_all(hf(parquet_folder, caption_columns=["captions"]), 3, both)
    check_all(hf(parquet_folder, caption_columns=["text"]), 3, [captions[:1] for captions in both])
    check_all(hf(parquet_folder, caption_columns=["text", "captions"]), 3, [[c[0], *c] for c in both])
    with pytest.raises(DataError, match=r"the columns 'captions' and 'text' could each be meant: set data.source.caption_col"):
        hf(parquet_folder).check("train")
    identities = said(read(hf(parquet_folder, caption_columns=["text"], identity_column="number")))
    assert identities[2] == ("2", ["train 2"])


def test_what_save_to_disk_wrote(loaded: datasets.DatasetDict, tmp_path: Path) -> None:
    loaded.save_to_disk(tmp_path / "saved")
    settings = {"caption_columns": ["text"]}
    source = hf(tmp_path / "saved", **settings)
    check_all(source, 4, [[f"train {number}"] for number in range(7)])
    assert (source.count("train", None), source.count("train", 5)) == (7, 5)
    with pytest.raises(DataError, match=r"has no split 'tests': name one of 'train', 'validation'"):
        hf(tmp_path / "saved", splits=HF_SPLITS | {"test": "tests"}, **settings).check("test")


def test_one_data_set_that_save_to_disk_wrote_is_the_training_split(loaded: datasets.DatasetDict, tmp_path: Path) -> None:
    loaded["train"].save_to_disk(tmp_path / "saved")
    settings = {"caption_columns": ["text"]}
    assert len(read(hf(tmp_path / "saved", splits={"train": "train"}, **settings))) == 7
    for splits in (HF_SPLITS, {"train": "trian"}):
        with pytest.raises(DataError, match=r"has no split '(validation|trian)': name one of 'train'"):
            hf(tmp_path / "saved", splits=splits, **settings).check("val" if "val" in splits else "train")


def test_images_outside_of_the_folder_must_be_named(loaded: datasets.DatasetDict, image_folder: Path, tmp_path: Path) -> None:
    """The library's `to_parquet` writes the paths of images, not the images."""
    (tmp_path / "paths").mkdir()
    loaded["train"].to_parquet(tmp_path / "paths" / "train.parquet")
    settings = {"caption_columns": ["text"], "splits": {"train": "train"}}
    with pytest.raises(DataError, match=r"train: file 0, row 0: .*0\.jpg leads out of data\.source\.path"):
        hf(tmp_path / "paths", **settings).check("train")
    found = read(hf(tmp_path / "paths", image_folder=str(image_folder), **settings))
    assert [sample.image for sample in found] == [jpeg((20 * number, 0, 0)) for number in range(7)]


def test_images_in_an_archive(image_folder: Path, tmp_path: Path) -> None:
    shutil.make_archive(str(tmp_path / "zipped" / "train"), "zip", image_folder / "train")
    found = read(hf(tmp_path / "zipped", splits={"train": "train"}))
    assert [sample.captions for sample in found] == [[f"train {number}"] for number in range(7)]
    assert [sample.image for sample in found] == [jpeg((20 * number, 0, 0)) for number in range(7)]


def test_archives_in_a_folder_that_is_not_mounted_are_no_bad_samples(image_folder: Path, tmp_path: Path) -> None:
    archives = tmp_path / "archives"
    shutil.make_archive(str(archives / "train"), "zip", image_folder / "train")
    rows = [{"image": {"bytes": None, "path": f"zip://{number}.jpg::train.zip"}, "text": "x"} for number in range(2)]
    source = rows_of(tmp_path / "rows", rows).model_copy(update={"image_folder": str(archives)})
    assert [sample.image for sample in read(source)] == [jpeg((20 * number, 0, 0)) for number in range(2)]
    (archives / "train.zip").unlink()
    with pytest.raises(UnusableHere, match=r"data\.source\.image_folder: .*archives is missing or empty on the machine"):
        read(rows_of(tmp_path / "again", rows).model_copy(update={"image_folder": str(archives)}))


def rows_of(folder: Path, rows: list[dict[str, Any]]) -> Source:
    folder.mkdir()
    datasets.Dataset.from_list(rows).to_parquet(folder / "train.parquet")
    return hf(folder, splits={"train": "train"})


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        ({"text": None}, "text: missing"),
        ({"text": "  "}, "text: empty"),
        ({"image": None}, "no image"),
        ({"image": {"bytes": None, "path": None}}, "no image"),
        ({"image": {"bytes": None, "path": "/etc/passwd"}}, r"/etc/passwd leads out of data\.source\.path"),
        ({"image": {"bytes": None, "path": "../secret.jpg"}}, "leads out of"),
        ({"image": {"bytes": None, "path": "zip://a.jpg::/etc/x.zip"}}, "leads out of"),
        ({"image": {"bytes": None, "path": "http://x/a.jpg"}}, "leads out of"),
        ({"image": {"bytes": None, "path": "none.jpg"}}, r"none\.jpg cannot be read"),
    ],
)
def test_a_bad_row_is_one_bad_sample(tmp_path: Path, bad: dict[str, Any], sentence: str) -> None:
    good: dict[str, Any] = {"image": {"bytes": jpeg(), "path": None}, "text": "good"}
    found = read(rows_of(tmp_path / "rows", [good, good | bad, good]))
    assert [isinstance(sample, RawSample) for sample in found] == [True, False, True]
    assert isinstance(found[1], UnreadableSample)
    with pytest.raises(DataError, match=f"rows: train: file 0, row 1: .*{sentence}"):
        raise found[1].error
    assert one_line(str(found[1].error)) == str(found[1].error)


def test_a_row_without_a_value_that_tells_images_apart_has_no_identity(tmp_path: Path) -> None:
    row: dict[str, Any] = {"image": {"bytes": jpeg(), "path": None}, "text": "x"}
    source = rows_of(tmp_path / "rows", [row | {"number": 3}, row | {"number": None}])
    found = read(source.model_copy(update={"identity_column": "number"}))
    assert [sample.identity for sample in found if isinstance(sample, RawSample)] == ["3", None]


def test_captions_that_are_numbers(tmp_path: Path) -> None:
    source = rows_of(tmp_path / "rows", [{"image": {"bytes": jpeg(), "path": None}, "text": 3}])
    with pytest.raises(DataError, match="text: expected a text, not int"):
        source.check("train")


def test_another_file_is_another_version(parquet_folder: Path) -> None:
    def version() -> dict[str, Any]:
        source = hf(parquet_folder, caption_columns=["text"])
        return source.describe("train", source.parts("train", limit=None, part_samples=5)[0], seed=0)

    first = version()
    assert version() == first
    shutil.copy(parquet_folder / "validation-00000-of-00001.parquet", parquet_folder / "train-00003-of-00003.parquet")
    assert version() != first


def on_the_hub(monkeypatch: pytest.MonkeyPatch, **settings: Any) -> tuple[Source, list[str | None]]:
    """A source on a hub whose branches are at the commit 0abc, and the revisions that are loaded."""
    loaded: list[str | None] = []

    def load(path: str, config: str | None, revision: str | None, split: str) -> Rows:
        loaded.append(revision)
        return Rows(None, ["image", "text"], False, 7, 7)

    monkeypatch.setattr("vldd_dist.data.sources.hf.commit_of", lambda path, revision: "0abc")
    monkeypatch.setattr("vldd_dist.data.sources.hf.load", load)
    return hf("user/photos", **settings), loaded


def test_the_rows_are_those_of_the_commit_that_identifies_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not those of the branch, to which somebody may push."""
    source, loaded = on_the_hub(monkeypatch, revision="main")
    (part,) = source.parts("train", limit=None, part_samples=10)
    assert source.describe("train", part, seed=0) == {"version": "commit 0abc"}
    assert loaded == ["0abc"]


def test_a_branch_and_its_commit_are_the_same_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who writes the commit of a finished run into the description prepares nothing again."""
    sources = [on_the_hub(monkeypatch, revision=revision)[0] for revision in (None, "main", "0abc")]
    (first, *others) = [(source.identity(), source.describe("train", Part(0, 7), seed=0)) for source in sources]
    assert others == [first, first]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"splits": {"train": "tests"}}, "Bad split: tests. Available splits: .*correct path, config, revision or splits"),
        ({"caption_columns": ["title"]}, "there is no column 'title'; its columns are 'image', 'text', 'number'"),
        ({"image_column": "jpg"}, "there is no column 'jpg'; its columns are"),
        ({"identity_column": "id"}, "there is no column 'id'; its columns are"),
        ({"config": "none"}, "config 'none' not found|BuilderConfig 'none' not found"),
    ],
)
def test_settings_that_name_nothing(image_folder: Path, settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        hf(image_folder, **settings).check("train")


def test_no_folder_or_nothing_in_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.source\.path: .*/none is not a folder: correct the path"):
        hf(tmp_path / "none").check("train")
    assert hf(tmp_path / "none").count("train", 5) == 5
    (tmp_path / "train.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match=r"data\.source: .* cannot be read \("):
        hf(tmp_path).check("train")
    for splits in ({"val": "val"}, {"train": "train", "dev": "dev"}):
        with pytest.raises(ValidationError, match="splits: give the data set's name for `train`"):
            hf(tmp_path, splits=splits)
    with pytest.raises(
        ValidationError, match=r"splits: train and test are both 'train': leave test out, and data\.split makes it"
    ):
        hf(tmp_path, splits={"train": "train", "val": "validation", "test": "train"})


def test_offline_is_final_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests run with HF_HUB_OFFLINE=1."""
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it waits to ask again"))
    with pytest.raises(DataError, match="nobody/nothing is not a folder, and HF_HUB_OFFLINE is set: unset HF_HUB"):
        hf("nobody/nothing").check("train")
    for pattern in ("hf://datasets/nobody/nothing/{0000..0002}.tar", "hf://datasets/nobody/nothing/*.tar"):
        with pytest.raises(DataError, match=r"cannot be read \(.*offline mode is enabled"):
            Shards(name="shards", train=pattern).check("train")
