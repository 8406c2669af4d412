"""Output for programs: `--json` has the contents of the tables, and nothing else is on standard output."""

import json
import os
import shlex
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import typer

from tests.cli.command import PROGRAM, vldd
from tests.distilled_sets import distilled_set
from vldd_dist.artifacts.runs.run_status import RunStatus, write_status
from vldd_dist.artifacts.units import mark_store
from vldd_dist.cli.examples import EXAMPLES
from vldd_dist.cli.main import COMMANDS, app
from vldd_dist.cli.options import MILESTONES
from vldd_dist.config.loading.presets import preset_names
from vldd_dist.distilled_set.publishing.write import save
from vldd_dist.pipeline.stage import milestones
from vldd_dist.ray_backend import doctor
from vldd_dist.recall_metrics import with_mean
from vldd_dist.store.store import Store


@pytest.fixture
def published(store: Store) -> Store:
    """A set of five pairs, and the status of a run."""
    mark_store(store)
    save(distilled_set(), store.url_of("distilled/x"))
    stages = {"expert": {"total": 3, "done": 2, "failed": 0}}
    fields = {
        "experiment": "x",
        "run": "0a1b2c3d",
        "state": "running",
        "stages": stages,
        "running": [],
        "time_left": "about 2 min left",
    }
    write_status(store, RunStatus.model_validate(fields | {"notices": []}))
    return store


def test_a_store_and_a_set_as_documents(published: Store, capsys: pytest.CaptureFixture[str]) -> None:
    url = published.url_of("distilled/x")
    (said, table) = (vldd("list", published.url, *more, capsys=capsys)[1] for more in (["--json"], []))
    listed = json.loads(said)
    moment = datetime.fromisoformat(listed["sets"][0]["published"])
    assert listed == {
        "store": published.url,
        "sets": [
            {
                "url": url,
                "pairs": 5,
                "mean_recall": None,
                "changed_after_evaluation": False,
                "test_images": None,
                "published": listed["sets"][0]["published"],
            }
        ],
        "damaged": [],
    }
    assert abs(datetime.now(UTC) - moment) < timedelta(minutes=5)
    assert table == f"{url}  5 pairs  not evaluated  published {moment:%Y-%m-%d %H:%M} UTC\n"
    evaluated = distilled_set()
    evaluated.facts = {
        "recalls": {"distilled": [with_mean((50.0,) * 6)]},
        "data": {"splits": {"test": {"images": 6, "captions": 30}}},
    }
    save(evaluated, published.url_of("distilled/y"))
    assert (
        f"{published.url_of('distilled/y')}  5 pairs  mean recall 50.0 % on 6 test images  published 20"
        in vldd("list", published.url, capsys=capsys)[1]
    )
    shown = json.loads(vldd("show", url, "--json", capsys=capsys)[1])
    assert shown["pairs"] == shown["manifest"]["pairs"] == 5
    assert "# " in shown["card"]
    (told, lines) = (vldd("status", published.url, *more, capsys=capsys)[1] for more in (["--json"], []))
    (one,) = json.loads(told)["experiments"]
    assert (one["experiment"], one["run"], one["state"]) == ("x", "0a1b2c3d", "running")
    assert (one["outdated"], one["report"]) == (False, None)
    assert one["stages"]["expert"] == {"total": 3, "done": 2, "failed": 0}
    assert "2/3 done" in lines
    assert one["time_left"] in lines


@pytest.mark.parametrize("command", ["list", "show", "verify", "fetch", "push"])
def test_commands_that_read_manifests_do_not_load_torch(command: str, published: Store, tmp_path: Path) -> None:
    url = published.url if command == "list" else published.url_of("distilled/x")
    arguments = [command, url, *([str(tmp_path / "copy")] if command in ("fetch", "push") else [])]
    said = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=True).stdout
    assert "5 " in said
    assert "torch" not in said.splitlines()[-1].split()


def test_a_status_is_shown_although_the_cluster_has_ended(published: Store, capsys: pytest.CaptureFixture[str]) -> None:
    code, said, error = vldd("status", published.url, "--address", "http://127.0.0.1:9", capsys=capsys)
    assert code == 2
    assert "x: running" in said
    assert "--address http://127.0.0.1:9: the cluster cannot be reached" in error


def test_a_store_is_not_a_set_and_an_empty_store_is_an_error(
    published: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = vldd("show", published.url, capsys=capsys)
    assert (code, f"is a store, not a distilled set: `vldd list {published.url}`" in err) == (4, True)
    code, _, err = vldd("list", published.url_of("distilled/x"), capsys=capsys)
    assert (code, "is a distilled set, not a store of them: `vldd show" in err) == (4, True)
    published.delete([f"distilled/x/{name}" for name in ("manifest.json",)])
    code, out, err = vldd("list", published.url, "--json", capsys=capsys)
    assert (code, out, "no distilled set is published here yet" in err) == (4, "", True)


def test_what_libraries_print_is_not_in_the_document(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def examine(url: str) -> list[doctor.Finding]:
        os.write(1, b"[Gloo] Rank 0 is connected\n")
        print("compiling")
        return [doctor.Finding("FAIL", "store", url)]

    monkeypatch.setattr(doctor, "examine", examine)
    code, out, err = vldd("doctor", "x", "--json", capsys=capfd)
    assert (code, json.loads(out)["findings"]) == (4, [{"verdict": "FAIL", "subject": "store", "says": "x"}])
    assert "Gloo" in err
    assert "compiling" in err


def test_every_command_has_examples_that_are_commands() -> None:
    group = typer.main.get_command(app)
    assert EXAMPLES.keys() == COMMANDS.keys()
    for name, lines in EXAMPLES.items():
        for line in lines:
            program, command, *arguments = shlex.split(line)
            assert (program, command) == ("vldd", name)
            # The parser rejects unknown options.
            group.commands[name].make_context(line, arguments)


def test_the_version_and_completion() -> None:
    program = Path(sys.executable).with_name("vldd")
    said = subprocess.run([program, "--help"], capture_output=True, text=True, check=True)
    assert "Run or resume an experiment, or a study of several variants" in " ".join(said.stdout.split())
    assert "..." not in said.stdout.partition("Commands:")[2], "no line is cut off"
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    assert said.stdout.startswith("vldd ")
    for words, completions in (
        ("vldd ver", ["verify"]),
        ("vldd run scen", [name for name in preset_names() if name.startswith("scen")]),
        ("vldd run scenes --until e", ["experts"]),
    ):
        place = str(len(words.split()) - 1)
        asked = os.environ | {"_VLDD_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": place}
        said = subprocess.run([program], env=asked, capture_output=True, text=True, check=True)
        assert said.stdout.split() == completions
    assert list(MILESTONES) == milestones()
