"""The command line: bad input ends with a one-sentence error and an exit code, and leaves no partial output."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.cli.command import vldd
from vldd_dist.testing.experiments.tiny import HANG_SECONDS

SCENES = "jobs/presets/scenes.yaml"


def test_config_prints_the_resolved_description(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = vldd("config", SCENES, "--set", "distill.pairs=[7]", capsys=capsys)
    tree = yaml.safe_load(out)
    assert code == 0
    assert tree["distill"]["pairs"] == [7]
    assert tree["evaluation"]["weight_decay"] == 5e-4


def test_a_plan_is_printed_and_nothing_is_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = vldd("run", SCENES, "--store", str(tmp_path / "store"), "--plan", capsys=capsys)
    assert code == 0
    assert "experts" in out
    assert not (tmp_path / "store").exists()


def test_a_plan_without_a_store_names_none(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = vldd("run", SCENES, "--plan", capsys=capsys)
    assert (code, out.splitlines()[0]) == (0, "Plan of scenes for an empty store")
    assert "memory://" not in out


def test_a_plan_until_a_stage_has_what_runs_until_then(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = vldd("run", SCENES, "--plan", "--until", "experts", "--json", capsys=capsys)
    assert code == 0
    document = json.loads(out)
    assert document["store"] is None
    stages = {stage["kind"] for stage in document["stages"]}
    assert "expert" in stages
    assert not {"distillation", "evaluation"} & stages
    code, _, err = vldd("run", SCENES, "--plan", "--until", "expert", capsys=capsys)
    assert (code, "--until expert: there is no such stage: choose one of" in err) == (2, True)


def test_a_plan_reads_the_first_samples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = "".join(f"{number}.jpg,a photo,{split}\n" for number, split in enumerate(["train", "val", "test"] * 3))
    (tmp_path / "pairs.csv").write_text("filepath,title,split\n" + rows)
    source = f"data.source={{name: table, path: {tmp_path / 'pairs.csv'}, split_column: split}}"
    arguments = ["run", SCENES, "--store", str(tmp_path / "store"), "--plan", "--set", source]
    arguments += ["--set", "data.train_images=3", "--set", "data.val_images=3", "--set", "data.test_images=3"]
    for override in ("distill.pairs=[2]", "experts.readers=1", "model.image.weights=random"):
        arguments += ["--set", override]
    code, _, err = vldd(*arguments, capsys=capsys)
    assert code == 4
    assert "pairs.csv: line 2: the file" in err
    assert "0.jpg cannot be read (No such file or directory): correct the folder or the entry (none of the first 3" in err
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["run", "none.yaml", "--store", "STORE"], 2, "none.yaml: no such file"),
        (["run", SCENES, "--store", "STORE", "--set", "experts.epoch=3"], 2, "unknown key; did you mean 'epochs'"),
        (
            ["run", SCENES, "--plan", "--gpus", "8"],
            2,
            "--gpus 8: a worker computes on one GPU: set 1; distill.workers or experts",
        ),
        (["run", SCENES, "--plan", "--track", "tensorboard"], 2, "--track tensorboard: expected one of tensorboard=TARGET"),
        (
            ["submit", SCENES, "--store", "STORE", "--track", "other=x"],
            2,
            "--track other=x: expected one of tensorboard=TARGET",
        ),
        (["run", SCENES, "--store", "STORE", "--set", "distill.pairs=[9999]"], 2, "more than the training images"),
        (
            ["run", SCENES, "--store", "STORE", "--set", "distill.objective.max_start_epoch=5"],
            2,
            "is more than experts.epochs (5)",
        ),
        (
            ["run", SCENES, "--store", "STORE", "--set", "experts.readers=99"],
            2,
            "experts.readers (99) is more than the training shards (4)",
        ),
        (
            ["run", SCENES, "--store", "STORE", "--set", "model.image.model=test_nfnett"],
            2,
            "timm has no 'test_nfnett'; similar names: test_nfnet",
        ),
        (["run", SCENES, "--store", "memory://x"], 2, "exists in one process only"),
        (["run", SCENES, "--store", "gopher://x"], 4, "unknown scheme"),
        (["run", SCENES, "--store", "FILE/store"], 4, "there is a file where a folder should be"),
        (
            ["run", SCENES, "--store", "STORE", "--set", "model.image.weights=none.safetensors"],
            4,
            "none.safetensors, for test_nfnet, cannot be read",
        ),
        # Before the description is read.
        (["run", "none.yaml"], 2, "--store: missing: name a folder or URL for the results"),
        (["run", "none.yaml", "--store", "STORE", "--json"], 2, "--json: works with --plan only"),
        (["walk"], 2, "No such command 'walk'"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    arguments: list[str], code: int, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_bytes(b"")
    places = {"STORE": str(tmp_path / "store"), "FILE/store": str(tmp_path / "file" / "store")}
    found, _, err = vldd(*[places.get(argument, argument) for argument in arguments], capsys=capsys)
    assert found == code
    assert sentence in err
    assert "Traceback" not in err
    assert not (tmp_path / "store").exists()


def test_the_help_says_what_json_needs_and_names_arguments_in_capitals(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = vldd("run", "--help", capsys=capsys)
    assert "With --plan: print one JSON document" in " ".join(out.split())
    _, out, _ = vldd("fetch", "--help", capsys=capsys)
    assert "FOLDER" in out


def test_a_terminal_shows_at_once_what_is_read(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert "reading" not in vldd("run", "none.yaml", "--plan", capsys=capsys)[2]
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert vldd("run", "none.yaml", "--plan", capsys=capsys)[2].startswith("reading none.yaml and planning ...\n")


def bad_annotations(folder: Path) -> list[str]:
    """A Karpathy JSON whose second training entry has lost its sentences."""
    (folder / "images").mkdir()
    entries = [{"filename": f"{n}.jpg", "split": "train", "sentences": [{"raw": "x"}]} for n in range(2)]
    del entries[1]["sentences"]
    (folder / "images" / "0.jpg").write_bytes(Path("tests/picture.jpg").read_bytes())
    (folder / "data.json").write_text(json.dumps({"images": entries}))
    return [f"data.source.annotations={folder}/data.json", f"data.source.images={folder}/images", "data.source=karpathy"]


def pickled_weights(folder: Path) -> list[str]:
    import torch

    torch.save({"x": torch.zeros(1)}, folder / "weights.pth")
    return [f"model.image.weights={folder}/weights.pth"]


@pytest.mark.ray
def test_bad_data_found_by_workers_are_one_sentence_errors_with_exit_code_4(tmp_path: Path) -> None:
    overrides = [f"data.{split}_images=null" for split in ("train", "val", "test")]
    # As many pairs and readers as the two images allow.
    overrides += [*bad_annotations(tmp_path), *pickled_weights(tmp_path), "distill.pairs=[2]", "experts.readers=1"]
    sets = [part for override in overrides for part in ("--set", override)]
    command = [sys.executable, "-m", "jobs.run", SCENES, "--store", str(tmp_path / "store"), *sets]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=HANG_SECONDS)
    said = ended.stdout + ended.stderr
    assert ended.returncode == 4, said
    failed = {line.split(": ")[1] for line in said.splitlines() if line.startswith("failed: ")}
    assert failed == {"shards 0", "image weights test_nfnet"}, said
    assert "images[1].sentences: missing" in said
    assert "a pickle (.pt, .pth, .bin), which is never opened" in said
    assert "Traceback" not in said
    manifests = [path.parent.parent.name for path in (tmp_path / "store").rglob("manifest.json")]
    assert "dataset" not in manifests
    assert "image_weights" not in manifests
