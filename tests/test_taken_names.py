"""A package has the name of a plug-in of ours: descriptions that use the name end in a sentence, others are not affected."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vldd_dist.errors import NameTaken
from vldd_dist.plugins import CORESETS, LOSSES, STAGES, Registry

OURS = {"k_center": CORESETS, "infonce": LOSSES, "mse": LOSSES, "publication": STAGES}


def install(folder: Path, *names: str) -> None:
    """A package that registers these of `OURS`."""
    (info := folder / "one_package-1.dist-info").mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: one_package\nVersion: 1\n")
    entries = (f"[{OURS[name].group}]\n{name} = one_package:Mine\n" for name in names)
    (info / "entry_points.txt").write_text("".join(entries))


def python(folder: Path, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the code in a process that has the package in the folder."""
    path = os.pathsep.join([str(folder), os.getcwd(), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("name", "start"),
    [("k_center", "jobs/presets/scenes.yaml: coresets.methods.2: the coreset 'k_center'"), ("infonce", "the loss 'infonce'")],
)
def test_a_description_that_uses_the_name_by_default_ends_in_one_sentence(name: str, start: str, tmp_path: Path) -> None:
    install(tmp_path, name)
    main = "from vldd_dist.cli.main import main; main()"
    ended = python(tmp_path, main, "run", "jobs/presets/scenes.yaml", "--plan", "--set", "name=x")
    sentence = f"vldd: {start} is registered as one_package:Mine and as {OURS[name].entries[name]}: register all but one"
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1), ended.stderr
    assert ended.stderr.startswith(sentence)


def test_other_descriptions_and_workers_are_not_affected(tmp_path: Path) -> None:
    install(tmp_path, "mse", "k_center")
    code = """
import vldd_dist.ray_backend.workers.worker
from vldd_dist.config.loading.load import load_experiment
from vldd_dist.pipeline.graphs.experiment import Graph
from vldd_dist.plugins import LOSSES
assert len(LOSSES._installed["mse"]) == 1
print(len(Graph(load_experiment("jobs/presets/scenes.yaml", ["coresets.methods=[random, herding]"])).units()))
"""
    ended = python(tmp_path, code)
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout) > 10


def test_a_stage_of_a_taken_name_is_a_sentence_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No description names it, so nothing else would make one of a ValueError."""
    install(tmp_path, "publication")
    monkeypatch.syspath_prepend(tmp_path)
    registry = Registry("stage", STAGES.interface, STAGES.entries)
    with pytest.raises(NameTaken, match="the stage 'publication' is registered as one_package:Mine and as") as raised:
        registry.load("publication")
    assert raised.value.exit_code == 2
