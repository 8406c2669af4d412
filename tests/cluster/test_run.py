"""The main job by its real command, with real Ray processes: killed workers, a killed coordinator, a signal."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.conftest import TINY
from vldd_dist.storage.status import read_statuses
from vldd_dist.storage.store import Store

pytestmark = pytest.mark.ray

# Long enough that a kill meets the work it aims at.
LONGER = [*TINY, "data.train_images=160", "experts.epochs=6", "distill.outer_steps=60", "distill.checkpoint_every=5"]


def command(store: Path, overrides: list[str]) -> list[str]:
    sets = [part for override in overrides for part in ("--set", override)]
    return [sys.executable, "-m", "jobs.run", "jobs/presets/scenes.yaml", "--store", str(store), *sets]


def start(store: Path, overrides: list[str] = LONGER) -> subprocess.Popen[str]:
    # A session of its own: its Ray processes can be found and ended with it, and no others.
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(command(store, overrides), text=True, start_new_session=True, **pipes)


def finish(process: subprocess.Popen[str], seconds: float = 300) -> str:
    output, _ = process.communicate(timeout=seconds)
    return output


def result(store: Path) -> tuple[str, dict]:
    """sha256 of the distilled set's pairs, and the summary."""
    (manifest,) = (store / "distilled").glob("*/manifest.json")
    digest = json.loads(manifest.read_text())["objects"]["pairs.safetensors"]["sha256"]
    return digest, json.loads((store / "report/summary.json").read_text())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("undisturbed") / "store"
    process = start(store)
    output = finish(process)
    assert process.returncode == 0, output
    assert "report: file://" in output
    assert "\x1b" not in output, "no control characters where no terminal is"
    return store


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, finish(process)
        assert time.monotonic() < deadline
        time.sleep(0.05)


def checkpoints(store: Path, kind: str) -> list[Path]:
    return list((store / "units" / kind).glob("*/checkpoints/*.json"))


def workers_of(process: subprocess.Popen[str], name: str) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if name in " ".join(child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue
    return found


def kill_session(process: subprocess.Popen[str]) -> None:
    """kill -9 of the coordinator and of every Ray process it started."""
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    for child in children:
        try:
            child.kill()
        except psutil.Error:
            continue
    process.communicate()


def test_a_second_run_finds_everything_done_without_starting_ray(undisturbed: Path) -> None:
    before = result(undisturbed)
    process = start(undisturbed)
    output = finish(process)
    assert process.returncode == 0
    assert "0 to run" in output
    assert result(undisturbed) == before


def test_killed_workers_are_replaced_and_the_result_is_the_same(undisturbed: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    process = start(store)
    for kind, worker in (("expert", "ExpertActor"), ("distillation", "ray::distillation")):
        wait_for(lambda kind=kind: bool(checkpoints(store, kind)), process)  # type: ignore[misc]
        victims = workers_of(process, worker)
        assert victims
        victims[0].send_signal(signal.SIGKILL)
    output = finish(process)
    assert process.returncode == 0, output
    assert output.count("tried again") == 2
    assert result(store) == result(undisturbed)


def test_a_killed_coordinator_leaves_a_store_from_which_the_same_command_goes_on(undisturbed: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    for kind in ("expert", "distillation"):
        process = start(store)
        wait_for(lambda kind=kind: bool(checkpoints(store, kind)), process)  # type: ignore[misc]
        kill_session(process)
        assert not (store / "distilled").exists()
    process = start(store)
    output = finish(process)
    assert process.returncode == 0, output
    assert " 0 done before" not in output
    assert result(store) == result(undisturbed)


def distils(store: Path) -> bool:
    """Whether the driver has written that outer steps are done."""
    statuses = read_statuses(Store(str(store)))
    running = [unit for status in statuses for unit in status.running]
    return any("distillation" in unit.label and unit.event.get("done", 0) > 0 for unit in running)


def test_a_signal_leaves_a_checkpoint_of_the_step_it_meets(tmp_path: Path) -> None:
    store = tmp_path / "store"
    process = start(store, [*TINY, "distill.outer_steps=5000", "distill.validate_every=5000", "distill.checkpoint_every=5000"])
    wait_for(lambda: distils(store), process)
    began = time.monotonic()
    os.kill(process.pid, signal.SIGTERM)
    output = finish(process, 60)
    assert process.returncode == 3, output
    assert time.monotonic() - began < 30
    (mark,) = checkpoints(store, "distillation")
    assert int(mark.name[:8]) > 0


def test_signals_end_it_resumable_with_exit_code_3(tmp_path: Path) -> None:
    store = tmp_path / "store"
    for kind, sent in (("expert", signal.SIGINT), ("distillation", signal.SIGTERM)):
        process = start(store)
        wait_for(lambda kind=kind: bool(checkpoints(store, kind)), process)  # type: ignore[misc]
        began = time.monotonic()
        os.kill(process.pid, sent)
        output = finish(process, 60)
        assert process.returncode == 3, output
        assert "the same command goes on" in output
        assert "Traceback" not in output
        assert time.monotonic() - began < 30
        assert checkpoints(store, kind)
