"""Recognising splits at a path: validation and test data are never used for training, unless a message says so."""

from pathlib import Path
from typing import Any

import datasets
import pytest

from tests.data.folders_to_recognise import coco_json, csv
from tests.data.sample_files import jpeg
from tests.data.tables import rows
from vldd_dist.data.files.url_patterns import expand
from vldd_dist.data.recognise import folders, recognise
from vldd_dist.errors import DataError


def tars(folder: Path, *names: str) -> str:
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"")
    return str(folder)


def test_the_splits_of_tars(tmp_path: Path) -> None:
    """A name with another name as its prefix is not confused with it, a folder's name is not read as a pattern, and unused tars
    are reported."""
    folder = tmp_path / "set [1]"
    folder.mkdir()
    found = recognise(tars(folder, "train-0.tar", "train-1.tar", "val_0.tar", "validation-0.tar", "trainer.tar", "x.tar"))
    escaped = str(folder).replace("[", "[[]")
    assert found.source == {
        "name": "shards",
        "train": f"{escaped}/train[!a-zA-Z]*.tar",
        "val": f"{escaped}/val[!a-zA-Z]*.tar::{escaped}/validation[!a-zA-Z]*.tar",
    }
    assert found.what.endswith("splits: train, val; 2 whose names show no split are left out")


def test_a_tar_with_the_name_of_a_pattern_is_read_itself(tmp_path: Path) -> None:
    place = tars(tmp_path, "data1.tar", "data[1].tar", "x{a,b}.tar")
    for name in ("data[1].tar", "x{a,b}.tar"):
        assert expand(recognise(f"{place}/{name}").source["train"]) == [f"{place}/{name}"]
    assert expand(f"{place}/data[0-9].tar") == [f"{place}/data1.tar"]


@pytest.mark.parametrize("name", ["b{x,y}", "a::b"])
def test_a_folder_whose_name_cannot_be_escaped_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(DataError, match="braces and '::' in the names of folders and tars would be read as a pattern: rename"):
        recognise(tars(tmp_path / name, "0.tar"))


TARS = {
    "a word in the middle": {"train": ["cc3m-train-0.tar", "cc3m-train-1.tar"], "val": ["cc3m-validation-0.tar"]},
    "a word at the end": {"train": ["0-train.tar", "1-train.tar"], "val": ["2-val.tar"], "test": ["3_test.tar"]},
    "a word alone": {"train": ["train.tar"], "test": ["test.tar"]},
    "capitals and years": {"train": ["COCO_Train2014-0.tar", "train.x.tar"], "val": ["COCO_VAL2014-0.tar"]},
    "training and testing": {"train": ["training-0.tar", "restval-0.tar"], "test": ["testing-0.tar", "test-0.tar"]},
    "no word": {"train": ["mytrain-0.tar", "tested-0.tar", "0.tar"]},
}


@pytest.mark.parametrize("names", TARS.values(), ids=TARS)
def test_the_patterns_match_each_tar_once(tmp_path: Path, names: dict[str, list[str]]) -> None:
    found = recognise(tars(tmp_path, *(name for of_split in names.values() for name in of_split))).source
    assert found.pop("name") == "shards"
    matched = {split: sorted(Path(url).name for url in expand(patterns)) for split, patterns in found.items()}
    assert matched == {split: sorted(of_split) for split, of_split in names.items()}


def test_many_numbered_tars_are_one_pattern(tmp_path: Path) -> None:
    found = recognise(tars(tmp_path, *(f"{number:02d}-train.tar" for number in range(20))))
    assert found.source["train"] == f"{tmp_path}/*[!a-zA-Z]train.tar"


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["val-0.tar", "test-0.tar", "0.tar"], "show the splits test, val, but not train: write .* data.source.train"),
        (["train-0.tar", "train-val-0.tar"], r"the name of train-val-0\.tar shows more than one split: rename it"),
    ],
)
def test_tars_whose_splits_are_not_clear_are_refused(tmp_path: Path, names: list[str], sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        recognise(tars(tmp_path, *names))


def test_tars_in_folders_of_splits(tmp_path: Path) -> None:
    """All folders of a split are used, but none twice."""
    place = tars(tmp_path, "restval/0.tar", "train/0.tar", "train/1.tar", "validation/0.tar")
    (tmp_path / "val").symlink_to(tmp_path / "validation")
    found = recognise(place)
    train = f"{tmp_path}/restval/*.tar::{tmp_path}/train/*.tar"
    assert found.source == {"name": "shards", "train": train, "val": f"{tmp_path}/val/*.tar"}
    assert "has 4 tars" in found.what


def test_a_library_folder_with_restval_trains_on_train(tmp_path: Path) -> None:
    """The splits that are not used are reported."""
    content = [{"image": {"bytes": jpeg((number, 0, 0)), "path": None}, "text": "a photo"} for number in range(2)]
    of_rows = datasets.Dataset.from_list(content).cast_column("image", datasets.Image())
    datasets.DatasetDict({"restval": of_rows, "train": of_rows, "dev": of_rows, "val": of_rows}).save_to_disk(tmp_path / "s")
    found = recognise(str(tmp_path / "s"))
    assert found.source["splits"] == {"train": "train", "val": "val"}
    assert found.what.endswith("; splits: train, val; left out: restval, dev")


def hub(names: list[str], monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(folders, "split_names", lambda path: names)


def test_the_splits_of_a_data_set_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub(["train", "validation", "test"], monkeypatch, tmp_path)
    found = recognise("owner/name-1.0")
    splits = {"train": "train", "val": "validation", "test": "test"}
    assert found.source == {"name": "hf", "path": "owner/name-1.0", "splits": splits}
    assert found.what.endswith("on the hub; splits: train, validation, test")
    hub(["test"], monkeypatch, tmp_path)
    with pytest.raises(DataError, match=r"has the splits test, but not train: write .* data\.source\.splits"):
        recognise("owner/name-1.0")


def test_splits_that_cannot_be_read_offline_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests run with HF_HUB_OFFLINE=1."""
    monkeypatch.chdir(tmp_path)
    found = recognise("owner/name-1.0")
    assert found.source == {"name": "hf", "path": "owner/name-1.0"}
    assert found.what.endswith("on the hub, whose splits cannot be read: name them in data.source.splits")


@pytest.mark.parametrize(
    ("names", "named"),
    [
        (["captions_part2.json", "captions_part1.json"], "captions_part1.json, captions_part2.json"),
        (["captions_val2017.json", "captions_train2017.json", "captions_train2014.json"],
         "captions_train2014.json, captions_train2017.json, captions_val2017.json"),
        (["captions_all.json", "dataset_mine.json"], "captions_all.json, dataset_mine.json"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("inside", ["", "annotations"])
def test_annotations_of_which_some_would_be_left_out_are_refused(
    tmp_path: Path, names: list[str], named: str, inside: str
) -> None:
    (tmp_path / inside).mkdir(exist_ok=True)
    for name in names:
        coco_json(tmp_path / inside, name)
    with pytest.raises(DataError, match=rf"--from {tmp_path}: it has {named}: name one of them$"):
        recognise(str(tmp_path))


def test_the_annotations_of_all_splits_are_used_and_tables_beside_are_named(tmp_path: Path) -> None:
    train, val = (coco_json(tmp_path, f"captions_{split}2017.json") for split in ("train", "val"))
    coco_json(tmp_path, "instances_train2017.json", annotations=[])
    (tmp_path / "pairs.csv").write_text("image,caption\n0.jpg,a photo\n")
    found = recognise(str(tmp_path))
    assert (found.source["train"], found.source["val"]) == (train, val)
    assert found.what.endswith("; not used: pairs.csv")


def with_column(folder: Path, name: str, values: list[Any]) -> str:
    return csv(folder, [row | {name: values[number % len(values)]} for number, row in enumerate(rows())])


@pytest.mark.parametrize(("name", "values"), [("Split", [" Train"]), ("split", ["training", "testing"]), ("subset", ["dev"])])
def test_a_column_of_splits(tmp_path: Path, name: str, values: list[Any]) -> None:
    assert recognise(with_column(tmp_path, name, values)).source["split_column"] == name


@pytest.mark.parametrize("values", [list(range(11)), ["flickr"], [None]])
def test_a_column_of_something_else(tmp_path: Path, values: list[Any]) -> None:
    """A column with many values, or with only one, is not a column of splits."""
    assert "split_column" not in recognise(with_column(tmp_path, "set", values)).source


@pytest.mark.parametrize(
    ("values", "named"),
    [(["train_set", "test_set"], "'train_set', 'test_set'"), (["test", None, None], "''"), ([0, 1, 2], "'0', '1', '2'")],
)
def test_a_column_of_splits_with_unknown_names_is_refused(tmp_path: Path, values: list[Any], named: str) -> None:
    sentence = f"the column 'split' has the values {named}, which name no splits: write train, val or test there, or rename"
    with pytest.raises(DataError, match=sentence):
        recognise(with_column(tmp_path, "split", values))


def test_unknown_names_of_splits_are_seen_in_any_row(tmp_path: Path) -> None:
    content = [
        {"filepath": rows()[0]["filepath"], "title": "a photo", "split": "a" if number < 99 else "b"} for number in range(100)
    ]
    with pytest.raises(DataError, match="the column 'split' has the values 'a', 'b'"):
        recognise(csv(tmp_path, content))


def test_a_json_without_annotations_does_not_compete_with_captions(tmp_path: Path) -> None:
    """Such as the one that Kaggle adds to each data set."""
    for split in ("train", "val"):
        coco_json(tmp_path, f"captions_{split}2017.json")
    (tmp_path / "dataset-metadata.json").write_text('{"title": "COCO"}')
    found = recognise(str(tmp_path))
    assert {"train", "val"} <= found.source.keys()
