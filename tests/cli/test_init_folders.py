"""`vldd init`: names and places of its folder, folders that cannot be entered, weights of a file, and sizes for large data."""

import errno
import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import save_file

from tests.cli.command import vldd
from tests.cli.user_data import a_table, images_with_texts, saved_by_the_library
from tests.data.small_sources import karpathy
from vldd_dist.cli.first_experiment import IMAGE_MODEL, describe_experiment
from vldd_dist.config.loading.load import load_experiment
from vldd_dist.config.sections.model import TextTowerSettings
from vldd_dist.data.recognise.found import Found
from vldd_dist.data.sources.scenes import Scenes
from vldd_dist.models.image.backbone import create_backbone
from vldd_dist.models.text.identity import text_folder


@pytest.mark.parametrize("name", ["2024-05-01", "8", "on", "my data"])
def test_init_takes_any_name_of_a_folder(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / name
    code, out, err = vldd("init", str(folder), "--from", str(a_table(tmp_path)), capsys=capsys)
    assert (code, err) == (0, "")
    assert load_experiment(folder / "experiment.yaml").name == name.replace(" ", "-")
    assert shlex.split(out.splitlines()[-1]) == ["vldd", "run", f"{folder}/experiment.yaml", "--store", f"{folder}/store"]


@pytest.mark.parametrize("make", [images_with_texts, saved_by_the_library], ids=lambda make: make.__name__)
def test_neither_description_nor_results_are_written_into_the_data(
    make: Callable[[Path], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All files in such a folder belong to the data: those of the results would be read as images, or change its version."""
    place = make(tmp_path)
    (tmp_path / "link").symlink_to(place)
    for folder in (place, place / "first", tmp_path / "link"):
        code, _, err = vldd("init", str(folder), "--from", str(place), capsys=capsys)
        assert code == 2
        assert f"{folder} lies in the data, and its files would become data: name a folder outside {place}" in err
    assert vldd("init", str(tmp_path / "first"), "--from", str(place), capsys=capsys)[0] == 0
    path = str(tmp_path / "first" / "experiment.yaml")
    for more in ([], ["--plan"]):
        code, _, err = vldd("run", path, "--store", str(place / "store"), *more, capsys=capsys)
        assert code == 2
        assert f"--store {place}/store: lies in data.source.path, and its files would become data: name another folder" in err
    assert not (place / "store").exists()
    assert vldd("run", path, "--store", str(place / ".store"), "--plan", "--until", "data", capsys=capsys)[0] == 0


def test_a_description_is_written_whole_or_not_at_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part of one may be a valid description of another experiment."""
    place, first = a_table(tmp_path), tmp_path / "first"

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        code, _, err = vldd("init", str(first), "--from", str(place), capsys=capsys)
    assert (code, f"{first}/experiment.yaml cannot be written: No space left on device" in err) == (2, True)
    assert list(first.iterdir()) == []
    assert vldd("init", str(first), "--from", str(place), capsys=capsys)[0] == 0


def test_a_path_that_only_a_shell_would_expand_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would make a folder that is called `~`."""
    monkeypatch.chdir(tmp_path)
    place = str(a_table(tmp_path))
    for command in (
        ("init", "~/first", "--from", place),
        ("init", "first", "--from", "~/table.csv"),
        ("data", "scenes", "--out", "~/look"),
        ("fetch", "s3://bucket/set", "~/set"),
    ):
        code, _, err = vldd(*command, capsys=capsys)
        assert (code, "~ is not expanded here: write the whole path" in err) == (2, True), err
    assert not (tmp_path / "~").exists()


def test_a_folder_that_cannot_be_entered_is_a_one_sentence_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A path that is too long raises as one without permission does, but to root too."""
    place, impossible = a_table(tmp_path), f"/tmp/{'x' * 300}/y"
    code, _, err = vldd("init", impossible, "--from", str(place), capsys=capsys)
    assert (code, len(err.splitlines())) == (2, 1)
    assert "cannot be written: File name too long" in err
    karpathy(tmp_path)
    source = {"name": "karpathy", "annotations": str(tmp_path / "data.json"), "images": str(tmp_path / "images")}
    for change, sentence in (({"images": impossible}, "is not a folder"), ({"annotations": impossible}, "cannot be read")):
        path = tmp_path / "x.yaml"
        path.write_text(yaml.safe_dump({"name": "x", "data": {"source": source | change}}))
        code, _, err = vldd("run", str(path), "--store", str(tmp_path / "store"), capsys=capsys)
        assert (code, len(err.splitlines())) == (4, 1)
        assert sentence in err
    assert text_folder(TextTowerSettings(model=impossible)) is None


@pytest.mark.parametrize("denied", ["", "train"])
def test_a_folder_that_may_be_entered_but_not_listed_is_a_one_sentence_error(
    denied: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without permission for `root` too, who may list every folder."""
    photos = images_with_texts(tmp_path)
    (photos / "train").mkdir()
    for name in ("listdir", "scandir"):
        of_system = getattr(os, name)

        def listed(path: str, of_system: Callable[[str], Any] = of_system) -> Any:
            if Path(path) == photos / denied:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return of_system(path)

        monkeypatch.setattr(os, name, listed)
    code, _, err = vldd("init", str(tmp_path / "first"), "--from", str(photos), capsys=capsys)
    assert (code, len(err.splitlines())) == (4, 1)
    assert f"--from {photos}: {photos / denied} cannot be read (Permission denied): give this user the right to read it" in err
    assert not (tmp_path / "first").exists()


def test_weights_whose_path_is_not_utf8_are_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = os.path.join(tmp_path, os.fsdecode(b"w\xff.safetensors"))
    save_file(create_backbone(IMAGE_MODEL, {}, pretrained=False, seed=0).state_dict(), tmp_path / "w")
    os.rename(tmp_path / "w", weights)
    code, _, err = vldd("init", str(tmp_path / "first"), "--from", str(a_table(tmp_path)), "--weights", weights, capsys=capsys)
    assert (code, err) == (
        2,
        f"vldd: --weights {tmp_path}/w\\udcff.safetensors: its path is not UTF-8, so no description can name it: rename it\n",
    )
    assert not (tmp_path / "first").exists()


def test_init_with_weights_of_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    table, weights = str(a_table(tmp_path)), tmp_path / "my 📦: weights.safetensors"
    save_file(create_backbone(IMAGE_MODEL, {}, pretrained=False, seed=0).state_dict(), weights)
    assert vldd("init", str(tmp_path / "first"), "--from", table, "--weights", str(weights), capsys=capsys)[0] == 0
    image = load_experiment(tmp_path / "first" / "experiment.yaml").model.image
    assert (image.model, image.weights, image.train) == (IMAGE_MODEL, str(weights), "head")
    save_file(create_backbone("test_nfnet", {}, pretrained=False, seed=0).state_dict(), weights)
    for file, sentence in {
        str(tmp_path / "none.safetensors"): "cannot be read (No such file or directory): name a .safetensors file",
        table: "not a complete safetensors file",
        str(weights): f"they are not of {IMAGE_MODEL}",
        "timm": "--weights timm: name a .safetensors file or its URL",
    }.items():
        code, _, err = vldd("init", str(tmp_path / "second"), "--from", table, "--weights", file, capsys=capsys)
        assert (code != 0, len(err.splitlines()), sentence in err) == (True, 1, True), err
        assert not (tmp_path / "second").exists()


@pytest.mark.parametrize(
    "options",
    [
        ["--from", "https://user:SECRET@host/a.tar"],
        ["--from", "s3://SECRET@bucket/{00..01}.tar"],
        ["--from", "captions.csv", "--weights", "https://user:SECRET@host/w.safetensors"],
    ],
)
def test_init_shows_no_credentials(options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = vldd("init", str(tmp_path / "first"), *options, capsys=capsys)
    assert (code, len(err.splitlines()), "carries credentials" in err, "SECRET" in err) == (2, 1, True, False), err


@pytest.mark.parametrize(("images", "limits"), [(300_000, (20_000, 1000, 1000)), (22_300, (None, None, None))])
def test_a_first_run_on_a_large_source_reads_only_the_images_that_it_uses(images: int, limits: tuple[int | None, ...]) -> None:
    """With limits for all splits, preparation ends at the last of them. A few images more than the limit are no reason for one:
    each image's split is a draw, which could leave fewer."""

    class Large(Scenes):
        def own_splits(self) -> tuple[str, ...]:
            return ("train",)

        def count(self, split: str, limit: int | None) -> int:
            return images

    text = describe_experiment(Found({"name": "scenes"}, "a large source"), Large(name="scenes"), "first")
    data = yaml.safe_load(text)["data"]
    assert tuple(data.get(f"{split}_images") for split in ("train", "val", "test")) == limits
    assert ("the first in the source's order: if it is sorted" in text) is (limits[0] is not None)
