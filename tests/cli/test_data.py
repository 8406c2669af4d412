"""`vldd init` and `vldd data` on images and captions of the user's own."""

import base64
import io
import re
from collections.abc import Callable
from pathlib import Path

import datasets
import pandas
import pytest
import yaml
from PIL import Image
from webdataset.writer import TarWriter

from tests.cli.command import table_rows, vldd
from tests.cli.user_data import SPLITS, a_table, description, images_with_texts, saved_by_the_library
from tests.data.sample_files import jpeg, pair
from tests.data.small_sources import coco, karpathy
from tests.data.tables import IMAGES, make_images, name_of, rows
from vldd_dist.config.loading.load import load_experiment

CAPTIONS = [f"photo {number}, view 0" for number in range(IMAGES)]


def a_table_of_kaggle(folder: Path) -> Path:
    """Flickr8k's captions.txt beside a folder of images, with five rows for each image."""
    make_images(folder)
    content = [{"image": Path(row["filepath"]).name, "caption": row["title"]} for row in rows(5)]
    for number in range(IMAGES):
        (folder / name_of(number)).rename(folder / "photos" / f"{number}.jpg")
    pandas.DataFrame(content).to_csv(folder / "captions.txt", index=False)
    return folder / "captions.txt"


def a_table_of_bars(folder: Path) -> Path:
    """Flickr30k's results.csv; returns the folder that contains it."""
    make_images(folder)
    content = [f"{row['filepath']}| 0| {row['title']}" for row in rows()]
    (folder / "results.csv").write_text("\n".join(["image_name| comment_number| comment", *content]))
    return folder


def a_parquet_with_splits(folder: Path) -> Path:
    make_images(folder)
    content = [row | {"split": SPLITS[number % 4]} for number, row in enumerate(rows())]
    pandas.DataFrame(content).to_parquet(folder / "pairs.parquet")
    return folder


def a_karpathy_json(folder: Path) -> Path:
    karpathy(folder)
    return folder / "data.json"


def coco_of_2017(folder: Path) -> Path:
    coco(folder)
    return folder


def shards(folder: Path) -> Path:
    for split in ("train", "validation"):
        with open(folder / f"{split}-000.tar", "wb") as file, TarWriter(file) as tar:
            for number in range(4):
                image = jpeg((20 * number, 0, 0))
                tar.write({"__key__": f"{number}", "jpg": image, "txt": "a photo", "json": {"caption": "a photo"}})
    return folder


def parquet_of_the_library(folder: Path) -> Path:
    content = [{"image": {"bytes": jpeg((20 * number, 0, 0)), "path": None}, "text": "a photo"} for number in range(8)]
    (folder / "set").mkdir()
    datasets.Dataset.from_list(content).cast_column("image", datasets.Image()).to_parquet(folder / "set" / "train.parquet")
    return folder / "set"


PLACES: dict[Callable[[Path], Path], dict[str, object]] = {
    a_table: {"name": "table", "image_column": "filepath", "caption_columns": ["title"]},
    a_table_of_kaggle: {"name": "table", "format": "csv", "image_column": "image", "caption_columns": ["caption"]},
    a_table_of_bars: {"name": "table", "separator": "|", "image_column": "image_name", "caption_columns": ["comment"]},
    a_parquet_with_splits: {"name": "table", "split_column": "split"},
    a_karpathy_json: {"name": "karpathy"},
    coco_of_2017: {"name": "coco"},
    shards: {"name": "shards"},
    images_with_texts: {"name": "folder"},
    saved_by_the_library: {"name": "hf", "splits": {"train": "train", "val": "validation"}},
    parquet_of_the_library: {"name": "hf", "splits": {"train": "train"}},
}


@pytest.mark.parametrize("make", PLACES, ids=lambda make: make.__name__)
def test_init_writes_a_description_of_each_kind_of_data(
    make: Callable[[Path], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "given").mkdir()
    place = make(tmp_path / "given")
    # The library `datasets` prints its progress.
    capsys.readouterr()
    code, out, err = vldd("init", str(tmp_path / "My first"), "--from", str(place), capsys=capsys)
    assert (code, err) == (0, "")
    written = tmp_path / "My first" / "experiment.yaml"
    assert f"vldd run '{written}'" in out
    source = yaml.safe_load(written.read_text())["data"]["source"]
    assert {key: source[key] for key in PLACES[make]} == PLACES[make]
    experiment = load_experiment(written)
    assert experiment.name == "my-first"
    found = experiment.data.source
    (first, *_) = found.samples("train", found.parts("train", limit=1, part_samples=1)[0], image_size=64, seed=0)
    assert first.captions
    code, out, _ = vldd("data", str(written), capsys=capsys)
    assert code == 0
    assert re.search(r"images\W+\d+", out)
    code, _, err = vldd("init", str(tmp_path / "My first"), "--from", str(place), capsys=capsys)
    assert code == 2
    assert "experiment.yaml already exists: name another folder, or remove it" in err


@pytest.mark.parametrize(
    ("offline", "tower", "size", "pairs"), [("1", "test_nfnet", 32, 20), ("0", "mobilenetv2_100", 128, 27)]
)
def test_a_tower_that_is_trained_whole_gets_smaller_images_and_fewer_pairs(
    offline: str,
    tower: str,
    size: int,
    pairs: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "given").mkdir()
    for number in range(300):
        (tmp_path / "given" / f"{number}.jpg").write_bytes(jpeg((20, 0, 0)))
        (tmp_path / "given" / f"{number}.txt").write_text("a photo")
    monkeypatch.setenv("HF_HUB_OFFLINE", offline)
    code, out, err = vldd("init", str(tmp_path / "first"), "--from", str(tmp_path / "given"), capsys=capsys)
    assert (code, err) == (0, "")
    assert "With about 15 test images, a student's TR@K changes in steps of 6.7 percentage points. Use more images, or" in out
    assert "or raise data.split.val and data.split.test." in out
    assert ("HF_HUB_OFFLINE is set: a tiny image tower with random weights" in out) == (offline == "1")
    written = (tmp_path / "first" / "experiment.yaml").read_text()
    assert "# No val and no test split is read from the source: these fractions of its training images are used." in written
    experiment = load_experiment(tmp_path / "first" / "experiment.yaml")
    assert (experiment.model.image.model, experiment.data.image_size) == (tower, size)
    # A tenth of the 270 images that are left for training, or the limit.
    assert experiment.distill.pairs == [pairs]


def nothing(folder: Path) -> Path:
    return folder


def no_path(folder: Path) -> Path:
    return folder / "none"


def images_alone(folder: Path) -> Path:
    make_images(folder)
    return folder


def a_table_of_numbers(folder: Path) -> Path:
    (folder / "x.csv").write_text("a,b\n1,2\n")
    return folder / "x.csv"


def a_table_without_images(folder: Path) -> Path:
    (folder / "x.csv").write_text("filepath,title\nnone.jpg,a photo of none\n")
    return folder


def images_without_captions(folder: Path) -> Path:
    make_images(folder)
    (folder / "x.csv").write_text(f"filepath,number\n{name_of(0)},3\n")
    return folder


def two_tables(folder: Path) -> Path:
    for name in ("a.csv", "b.tsv"):
        (folder / name).write_text("filepath,title\n")
    return folder


def other_json(folder: Path) -> Path:
    (folder / "x.json").write_text("[]")
    return folder / "x.json"


def no_json(folder: Path) -> Path:
    (folder / "x.json").write_text("[" * 100_000)
    return folder / "x.json"


def damaged_images(folder: Path) -> Path:
    path = a_table(folder)
    for number in range(IMAGES):
        (folder / name_of(number)).write_bytes(b"no image")
    return path


NOTHING_KNOWN = {
    nothing: r"its format is not known: expected a CSV, .*; see docs/own-data\.md",
    no_path: "there is no such file or folder",
    images_alone: r"13 images, and no captions",
    a_table_of_numbers: r"no column has paths of images; its columns are 'a', 'b'",
    a_table_without_images: r"it names images such as 'none\.jpg', which are not found in",
    images_without_captions: "no column has captions; its columns are 'filepath', 'number'",
    two_tables: r"it has 2 tables \(a\.csv, b\.tsv\): name one of them",
    other_json: "neither a Karpathy-style nor a COCO JSON",
    no_json: "not JSON, or nested too deeply",
    damaged_images: "none of the first 12 samples of train can be read",
}


@pytest.mark.parametrize(("make", "sentence"), NOTHING_KNOWN.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_an_unrecognised_path_is_a_one_sentence_error(
    make: Callable[[Path], Path], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "given").mkdir()
    code, _, err = vldd("init", str(tmp_path / "new"), "--from", str(make(tmp_path / "given")), capsys=capsys)
    assert code == 4
    assert re.search(sentence, err)
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "new").exists()


def test_the_figures_and_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = description(tmp_path, max_bad_fraction=0.5)
    content = pandas.read_csv(tmp_path / "pairs.csv")
    content["split"] = ["train"] * 16 + ["val"] * 4 + ["test"] * 4
    content.loc[2, "title"] = "<b>bold</b> and long & more"
    content.loc[23, "title"] = content.loc[21, "title"]
    content.to_csv(tmp_path / "pairs.csv", index=False)
    Image.new("RGB", (80, 20)).save(tmp_path / name_of(3))
    (tmp_path / name_of(4)).write_bytes(b"no image")
    (tmp_path / name_of(6)).write_bytes(jpeg((0, 0, 0)))
    code, out, _ = vldd("data", str(path), "--out", str(tmp_path / "page"), capsys=capsys)
    assert code == 0
    found = table_rows(out)
    assert found[""] == ["train", "val", "test"]
    assert found["images"] == found["looked at"] == ["8", "2", "2"]
    assert found["unreadable"] == ["1", "0", "0"]
    assert found["equal to an earlier image"] == ["1", "0", "0"]
    assert found["all, some captions shared"] == ["0, 0", "0, 0", "0, 2"]
    assert "of 2 images of test that were looked at, 2 have some captions that another one has too: recall" in out
    assert found["captions per image"] == ["2", "2", "2"]
    assert found["words per caption"] == ["4 .. 4 .. 5", "4", "4"]
    assert found["width"] == ["40 .. 40 .. 80", "40", "40"]
    assert "4.jpg: not a readable JPEG" in out
    assert "1 images of train equal an earlier one: give each image once, with all its captions" in out
    html = (tmp_path / "page" / "data.html").read_text()
    assert "&lt;b&gt;bold&lt;/b&gt; and long &amp; more" in html
    assert "<b>bold" not in html
    pictures = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', html)
    assert len(pictures) == 11
    assert Image.open(io.BytesIO(base64.b64decode(pictures[0]))).size == (160, 160)
    assert Image.open(tmp_path / "page" / "contact-sheet.png").size == (12 * 160, 3 * 160)
    code, out, _ = vldd("data", str(path), "--limit", "2", "--set", "data.max_bad_fraction=0", capsys=capsys)
    assert table_rows(out)["looked at"] == ["2", "2", "2"]
    assert table_rows(out)["images"] == ["8", "2", "2"]


def test_splits_taken_from_the_training_images_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = description(tmp_path)
    sets = ["--set", "data.split.test=0.2", "--set", "data.source.split_column=null"]
    _, out, _ = vldd("data", str(path), *sets, capsys=capsys)
    assert "val: 0.05 of the training images, about 1, by a hash of their names (data.split.val)" in out
    assert "test: 0.2 of the training images, about 2, by a hash" in out
    assert "With about 2 test images, a student's TR@K changes in steps of 50.0 percentage points, and any" in out
    for fraction, sentence in (("0.1", "With about 1 test image, a"), ("0.02", ": 0.02 of the images probably leaves no test")):
        _, out, _ = vldd("data", str(path), *sets, "--set", f"data.split.test={fraction}", capsys=capsys)
        assert sentence in out
    _, out, _ = vldd("data", str(path), *sets, "--set", "data.split.val=0.02", capsys=capsys)
    assert "data.split.val: 0.02 of the images probably leaves no val image." in out


def test_samples_are_taken_from_the_beginning_to_the_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The bad image is the eighth of the training split. In one part it is not among the first four samples; of eight parts,
    every other one is read."""
    path = description(tmp_path)
    content = pandas.read_csv(tmp_path / "pairs.csv")
    content["split"] = ["train"] * 16 + ["val"] * 4 + ["test"] * 4
    content.to_csv(tmp_path / "pairs.csv", index=False)
    (tmp_path / name_of(6)).write_bytes(b"no image")
    few = ["data", str(path), "--limit", "4", "--set"]
    _, out, _ = vldd(*few, "data.shard_images=100", capsys=capsys)
    assert table_rows(out)["unreadable"] == ["0", "0", "0"]
    _, out, _ = vldd(*few, "data.shard_images=1", capsys=capsys)
    assert table_rows(out)["unreadable"] == ["1", "0", "0"]
    assert "25.0% of train is unreadable, more than data.max_bad_fraction (0): correct the source or raise it" in out


def test_a_split_without_anything_readable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = description(tmp_path)
    for number in range(IMAGES):
        (tmp_path / name_of(number)).unlink()
    code, _, err = vldd("data", str(path), "--out", str(tmp_path / "page"), capsys=capsys)
    assert code == 4
    assert "data: the train split has no readable sample: " in err
    assert not (tmp_path / "page").exists()


def test_the_built_in_scenes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = vldd("data", "scenes", "--limit", "5", "--out", str(tmp_path), capsys=capsys)
    assert code == 0
    assert table_rows(out)["images"] == ["2,000", "200", "200"]
    assert table_rows(out)["width"] == ["32", "32", "32"]
    assert "has no effect" not in out
    _, out, _ = vldd("data", "scenes", "--limit", "5", "--set", "data.split.val=0.3", capsys=capsys)
    assert "data.split.val (0.3) has no effect: the source has a val split" in out


def test_captions_that_mirrored_images_contradict_are_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As the words alone: `bright` and `leftover` have no side."""
    for number in range(49):
        pair(tmp_path / f"{number}.jpg", "a bright dog eats leftovers\na cat on the LEFT." if number < 2 else "a dog\na cat")
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump({"name": "x", "data": {"source": {"name": "folder", "path": str(tmp_path)}}}))
    sentence = "2 of 98 captions say left or right, and experts.augment.flip mirrors images: set it to false"
    for augment, noted in (("{}", True), ("{flip: false}", False), ("null", False)):
        _, out, _ = vldd("data", str(path), "--set", f"experts.augment={augment}", capsys=capsys)
        assert (sentence in out) is noted, out


@pytest.mark.parametrize(("words", "tokens", "cut"), [(20, 30, False), (28, 30, False), (29, 32, False), (600, 512, True)])
def test_init_gives_long_captions_enough_tokens(
    words: int, tokens: int, cut: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each word is a token; two more are the start and the end. The encoder takes 512, and `vldd data` says what is cut."""
    place = images_with_texts(tmp_path)
    for path in place.rglob("*.txt"):
        path.write_text("\n".join(["a photo", " ".join(["red"] * words)]))
    code, _, err = vldd("init", str(tmp_path / "first"), "--from", str(place), capsys=capsys)
    assert (code, err) == (0, "")
    written = tmp_path / "first" / "experiment.yaml"
    assert load_experiment(written).model.text.max_tokens == tokens
    assert ("max_tokens" in written.read_text()) == (tokens != 30)
    code, out, _ = vldd("data", str(written), capsys=capsys)
    sentence = f"12 of 24 captions have more than model.text.max_tokens ({tokens}) tokens and are cut"
    assert (code, sentence in out) == (0, cut)
    if not cut:
        code, out, _ = vldd("data", str(written), "--set", "model.text.max_tokens=10", capsys=capsys)
        assert "12 of 24 captions have more than model.text.max_tokens (10) tokens" in out
        assert "raise it (minilm takes up to 512)" in out
