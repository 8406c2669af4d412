"""`python -m benchmarks.gpu` on a CPU: its parts run the same code as on a GPU."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.gpu.__main__ import NEEDED, summary
from benchmarks.gpu.checks import gradients
from benchmarks.gpu.notes import Notes
from benchmarks.gpu.parts import PARTS, Part
from benchmarks.gpu.place import DATA_SHEETS, Place
from benchmarks.gpu.report import page
from benchmarks.gpu.run_parts import run_parts

ROOT = Path(__file__).parents[2]
TINY = [part for part in PARTS if part.tiny and part.quick]
# Libraries that the benchmark must not need besides torch, timm, transformers and peft. No process of the run can import them.
NOT_NEEDED = (
    "ray",
    "webdataset",
    "s3fs",
    "deepspeed",
    "pyarrow",
    "sklearn",
    "matplotlib",
    "jinja2",
    "tensorboardX",
    "rich",
    "typer",
)
BLOCK = f"import sys\nsys.modules.update(dict.fromkeys({NOT_NEEDED}))\n"


def test_the_dry_run_passes_its_checks_and_has_its_figures_without_other_libraries(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(BLOCK)
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--tiny", "--minutes", "20", "--out", str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ended.stdout, ended.stderr
    summary = json.loads(ended.stdout.splitlines()[-1])
    assert summary["parts"] == {part.name: "ok" for part in TINY}, (tmp_path / "gpu.md").read_text()
    assert ended.returncode == 0
    results = json.loads((tmp_path / "results.json").read_text())["parts"]
    assert all(
        json.loads((tmp_path / "parts" / f"{part['part']}.json").read_text())["rows"] == part["rows"] for part in results
    )
    (steps,) = [part["rows"] for part in results if part["part"].startswith("step_")]
    assert {row["gradient"].partition(",")[0] for row in steps} >= {"exact", "central differences", "tesla", "full"}
    assert all(row["seconds"] > 0 and row["peak_mib"] > 0 for row in steps)
    text = (tmp_path / "gpu.md").read_text()
    assert all(f"## {part.title}" in text for part in TINY)
    assert not set(NOT_NEEDED) & set(NEEDED)


def test_a_part_that_ends_badly_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    names = ("raises", "lacks_memory", "dies", "hangs", "fails", "holds")
    limits = {"hangs": 1} | dict.fromkeys(names[:3], 60) | dict.fromkeys(names[4:], 60)
    parts = [Part(name, "check", name, f"tests.gpu.bad_parts:{name}", limits[name]) for name in names]
    seen: list[int] = []
    results = run_parts(parts, tmp_path, device="cpu", tiny=True, budget=600, renew=lambda results: seen.append(len(results)))
    assert seen == [1, 2, 3, 4, 5, 6]
    found = {result["part"]: result for result in results}
    ended = {"raises": "failed", "lacks_memory": "out of memory", "dies": "crashed", "hangs": "out of time", "fails": "failed"}
    assert {name: one["status"] for name, one in found.items()} == ended | {"holds": "ok"}
    assert found["raises"]["problems"] == ["ValueError: no\\nsuch thing"]
    assert "raise ValueError" in found["raises"]["log"]
    # Results from before the failure are kept.
    assert [found[name]["rows"][0]["what"] for name in ("dies", "hangs")] == ["half of it", "first"]
    assert found["fails"]["problems"] == ["error: 0.3, more than 0.2"]
    assert "| hangs | check | out of time |" in page({}, results)
    assert summary(results) | {"seconds": 0, "parts": {}} == {
        "checks_ok": 1,
        "checks_not_ok": 5,
        "figures": 0,
        "seconds": 0,
        "parts": {},
    }


def test_without_time_parts_are_not_run(tmp_path: Path) -> None:
    results = run_parts(PARTS[:2], tmp_path, device="cpu", tiny=True, budget=1, renew=lambda results: None)
    assert [result["status"] for result in results] == ["not run", "not run"]


@pytest.mark.parametrize(("found", "holds"), [(0.1, True), (0.3, False), (float("nan"), False)])
def test_a_check_holds_up_to_its_limit(found: float, holds: bool, tmp_path: Path) -> None:
    notes = Notes(tmp_path / "one.json")
    notes.check("error", found, 0.2)
    notes.end("ok")
    kept = json.loads((tmp_path / "one.json").read_text())
    assert kept["rows"][0]["holds"] is holds
    assert bool(kept["problems"]) is not holds


def test_a_frozen_backbone_is_checked_up_to_its_pixels_in_each_precision(tmp_path: Path) -> None:
    """Its backbone is no part of the student, whose heads run in fp32 whatever the backbone's precision."""
    place, notes = Place(torch.device("cpu"), tiny=True), Notes(tmp_path / "one.json")
    gradients.check_frozen_backbone(place, ["fp32", "bf16"], notes)
    assert notes.problems == []
    found = {row["what"]: row["found"] for row in notes.rows}
    for graphs in ("kept", "dropped"):
        fp32, bf16 = (found[f"frozen backbone: to its pixels, graphs {graphs}, {precision}"] for precision in ("fp32", "bf16"))
        assert bf16 > 100 * fp32
    measured = [gradients._is_measured("frozen backbone", "exact", precision, place) for precision in ("fp32", "bf16")]
    assert measured == [True, False]


def test_a_cards_full_name_comes_before_a_part_of_it() -> None:
    names = list(DATA_SHEETS)
    assert [(name, other) for place, name in enumerate(names) for other in names[:place] if other.lower() in name.lower()] == []


def test_the_page_names_the_figures_of_a_quick_run() -> None:
    (row,) = re.findall(r"^\| `--quick` \|(.*)", (ROOT / "benchmarks/results/gpu.md").read_text(), re.MULTILINE)
    assert re.findall(r"`(\w+)`", row) == [part.name for part in PARTS if part.kind == "figures" and part.quick]
