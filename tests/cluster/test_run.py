"""The main job, started by its real command with real Ray processes: killed workers, a killed driver, signals."""

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.cluster.main_job import LONGER, checkpoints, finish, result, start, wait_for, with_its_data, workers_of
from vldd_dist.artifacts.runs.run_status import read_statuses
from vldd_dist.artifacts.units import UnitReader, is_done
from vldd_dist.events import UnitReport
from vldd_dist.monitoring.live.status import describe_status
from vldd_dist.pipeline.execute import execute
from vldd_dist.pipeline.graphs.experiment import Graph
from vldd_dist.pipeline.work_unit import UnitOrder
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny import HANG_SECONDS
from vldd_dist.testing.experiments.tiny_experiment import experiment
from vldd_dist.testing.processes.forks import loaded_process, loaded_processes

pytestmark = pytest.mark.ray

# The main job, with its status written twice a second, because a test waits for entries in it.
WATCHED_JOB = (
    "-c",
    "import runpy, vldd_dist.monitoring.live.status as status; status.WRITE_SECONDS = 0.5; "
    "runpy.run_module('jobs.run', run_name='__main__')",
)
# The same job, which fails where it would start Ray or connect to it.
JOB_WITHOUT_RAY = ("-c", "import runpy, ray; ray.init = None; runpy.run_module('jobs.run', run_name='__main__')")


def kill_session(process: subprocess.Popen[str]) -> None:
    """kill -9 of the driver and of every Ray process it started."""
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
    process = start(undisturbed, job=JOB_WITHOUT_RAY)
    output = finish(process)
    assert process.returncode == 0, output
    assert "0 to run" in output
    assert result(undisturbed) == before


def said(store: Path, since: str = "") -> str:
    """The last status that a driver wrote after the time `since`, with its notices and the units' progress; empty if there is
    none."""
    statuses = [status for status in read_statuses(Store(str(store))) if status.written_at > since]
    return "\n".join(describe_status(status) for status in statuses)


def newest(store: Path, kind: str) -> int:
    """The step or epoch of the newest checkpoint; 0 if there is none."""
    return max((int(mark.name[:8]) for mark in checkpoints(store, kind)), default=0)


def test_the_same_command_resumes_after_sigint_sigkill_and_sigterm(undisturbed: Path, tmp_path: Path) -> None:
    store = with_its_data(tmp_path / "store", undisturbed)

    # While experts train: SIGKILL for a worker, then SIGINT (Ctrl-C) for the driver.
    process = start(store, job=WATCHED_JOB)
    wait_for(lambda: bool(checkpoints(store, "expert")), process)
    workers_of(process, "UnitActor")[0].send_signal(signal.SIGKILL)
    wait_for(lambda: "expert" in said(store) and "retried: its process was killed" in said(store), process)
    os.kill(process.pid, signal.SIGINT)
    output = finish(process)
    assert process.returncode == 3, output
    assert "run the same command to resume" in output
    assert "Traceback" not in output

    # During the distillation: SIGKILL for a worker, then for the driver with all its processes.
    process = start(store, job=WATCHED_JOB)
    wait_for(lambda: bool(checkpoints(store, "distillation")), process)
    workers_of(process, "ray::distillation")[0].send_signal(signal.SIGKILL)
    wait_for(lambda: "distillation 4 pairs seed 0: retried: its process was killed" in said(store), process)
    kill_session(process)
    assert not (store / "distilled").exists()

    # SIGTERM: the distillation writes a checkpoint of its current step. No other checkpoint is due.
    before = newest(store, "distillation")
    (last,) = read_statuses(Store(str(store)))
    process = start(store, [*LONGER, "distill.checkpoint_every=5000"], WATCHED_JOB)
    step = r"distillation 4 pairs seed 0: \d+/\d+"
    wait_for(lambda: re.search(step, said(store, since=last.written_at)) is not None, process)
    os.kill(process.pid, signal.SIGTERM)
    output = finish(process)
    assert process.returncode == 3, output
    assert newest(store, "distillation") > before

    process = start(store)
    output = finish(process)
    assert process.returncode == 0, output
    assert " 0 done before" not in output
    assert "report: file://" in output
    assert "\x1b" not in output, "no control characters without a terminal"
    assert result(store) == result(undisturbed)


def keep_at_it(url: str, orders: dict[str, UnitOrder], begun: Any, written: Any) -> None:
    """A worker whose driver has died and that Ray does not stop. It runs units one after the other, as soon as their inputs are
    committed, and writes at the same time as another run."""
    store, write = Store(url), Store.write
    for place, (kind, order) in enumerate(orders.items()):

        def counted(self: Store, key: str, data: Any, place: int = place) -> Any:
            written[place] += 1
            return write(self, key, data)

        Store.write = counted  # type: ignore[method-assign]
        while not all(is_done(store, *needed) for needed in order.inputs.values()):
            time.sleep(0.05)

        def report(event: UnitReport, kind: str = kind) -> None:
            begun.set()
            while not checkpoints(Path(store.root), kind) and not is_done(store, kind, orders[kind].id):
                time.sleep(0.05)

        execute(order, store, report)


def test_a_second_run_beside_an_orphan_of_the_first(undisturbed: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(undisturbed, store)
    units = {unit.label: unit for unit in Graph(experiment(*LONGER)).units()}
    raced = [units["expert 0"], units["distillation 4 pairs seed 0"]]
    for unit in raced:
        shutil.rmtree(store / "units" / unit.kind / unit.id)
    for folder in ("units/publication", "distilled", "report"):
        shutil.rmtree(store / folder)
    context = loaded_processes()
    begun, written = context.Event(), context.Array("i", len(raced))
    orders = {unit.kind: unit.order() for unit in raced}
    orphan = loaded_process(keep_at_it, str(store), orders, begun, written)
    orphan.start()
    try:
        assert begun.wait(HANG_SECONDS)
        process = start(store)
        output = finish(process)
        assert process.returncode == 0, output
        orphan.join(HANG_SECONDS)
        assert orphan.exitcode == 0
    finally:
        orphan.kill()
    assert result(store) == result(undisturbed)
    for unit in raced:
        reader = UnitReader(Store(str(store)), unit.kind, unit.id)
        before = UnitReader(Store(str(undisturbed)), unit.kind, unit.id)
        # Reading compares each object with its manifest.
        assert {name: reader.read(name) for name in reader.manifest.objects} == {
            name: before.read(name) for name in before.manifest.objects
        }
        attempts = {info.key.split("/")[3] for info in reader.manifest.objects.values() if not info.key.startswith("blobs/")}
        assert len(attempts) == 1, "all objects are from one of the two attempts"
    assert min(written) > 1, "the orphan wrote to both units as well"
