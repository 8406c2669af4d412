"""`vldd run --in-process`: all units in this process, without Ray; errors of a plug-in reach the debugger."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.command import PROGRAM, vldd
from vldd_dist import plugins
from vldd_dist.cli.main import main
from vldd_dist.testing.experiments.tiny import HANG_SECONDS, TINY

CHANGES = [*TINY, "experts.count=1", "coresets.methods=[random]"]
CODE = """
import torch
from vldd_dist.coresets.base import Coreset

class Broken(Coreset):
    def select(self, candidates, count, generator):
        {line}
        return torch.arange(count)
"""


def arguments(store: str, *changes: str) -> list[str]:
    return ["run", "scenes", "--store", store, *(part for change in (*CHANGES, *changes) for part in ("--set", change))]


def test_a_whole_experiment_runs_without_ray(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A normal run finds its units, and only writes the report."""
    store = str(tmp_path / "store")
    program = [sys.executable, "-c", PROGRAM, *arguments(store), "--in-process"]
    *lines, loaded = subprocess.run(
        program, capture_output=True, text=True, check=True, timeout=HANG_SECONDS
    ).stdout.splitlines()
    assert loaded.split() == ["0", "torch", "numpy"]
    *units, ended = lines
    numbered = [line for line in units if line.startswith("[")]
    count = len(numbered)
    assert [line.partition("]")[0] for line in numbered] == [f"[{number}/{count}" for number in range(1, count + 1)]
    assert ended == f"{count} units done, 0 found; the same command without --in-process writes the report"
    code, out, err = vldd(*arguments(store), capsys=capsys)
    assert code == 0, err
    assert "starting Ray" not in out
    assert "report: " in out


def test_an_error_of_a_plug_in_is_raised_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was committed before it is found by the next run, which goes on with the corrected code."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(plugins.CORESETS.entries, "broken", "broken_coreset:Broken")
    file, store = tmp_path / "broken_coreset.py", str(tmp_path / "store")
    changed = ["coresets.methods=[broken]", "evaluation.seeds=[0]"]
    file.write_text(CODE.format(line="raise ZeroDivisionError('mine')"))
    importlib.invalidate_caches()
    with pytest.raises(ZeroDivisionError, match="mine"):
        main([*arguments(store, *changed), "--in-process"])
    begun = [line for line in capsys.readouterr().out.splitlines() if line.startswith("[")]
    file.write_text(CODE.format(line=""))
    sys.modules.pop("broken_coreset")
    code, out, err = vldd(*arguments(store, *changed), "--in-process", capsys=capsys)
    assert code == 0, err
    assert f", {len(begun) - 1} found" in out.splitlines()[-1]


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--plan"], "--in-process: does not work with --plan"),
        (["--max-running", "2"], "--in-process: does not work with --max-running"),
        (["--track", "tensorboard=x"], "--in-process: does not work with --track"),
        (["--wait-hours", "3"], "--in-process: does not work with --wait-hours"),
        (["--set", "distill.workers=2"], "runs on ranks, which are processes of their own: set distill.workers=1"),
        (["--gpus", "1"], "asks for 1 GPU, and torch finds none"),
    ],
)
def test_what_needs_ray_is_refused_before_anything_is_written(
    more: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    code, _, err = vldd(*arguments(str(store)), "--in-process", *more, capsys=capsys)
    assert code == 2
    assert sentence in err
    assert not store.exists()
