"""The experiment as a user runs it: `vldd submit` to a cluster of several raylets, which loses nodes, drivers and jobs."""

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from ray.job_submission import JobStatus, JobSubmissionClient

from cluster.local import add_node, start_cluster
from tests.cluster.test_run import LONGER, checkpoints, finish, result, start
from vldd_dist.experiment import load_experiment
from vldd_dist.orchestration.submit import ENDED, submission_name
from vldd_dist.storage.status import RunStatus, read_statuses
from vldd_dist.storage.store import Store

pytestmark = pytest.mark.ray

PRESET = "jobs/presets/scenes.yaml"
PORT = 8299
# A distillation begins beside the second expert, and waits for it.
SETS = [*LONGER, "distill.min_experts=1"]


class LocalCluster:
    """A head that runs no work, and two nodes that do."""

    def __init__(self) -> None:
        self.nodes = start_cluster(2, 1, PORT)
        self.client = JobSubmissionClient(f"http://127.0.0.1:{PORT}")

    def submit(self, store: Path) -> tuple[str, str]:
        """The job's id, and what was printed."""
        sets = [part for override in SETS for part in ("--set", override)]
        program = [sys.executable, "-c", "from vldd_dist.cli import main; main()", "submit", PRESET, "--store", str(store)]
        output = subprocess.run(
            [*program, "--address", f"http://127.0.0.1:{PORT}", *sets], capture_output=True, text=True, check=True
        ).stdout
        return output.split()[0], output

    def wait(self, job: str, condition: Callable[[], bool], seconds: float = 180) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.client.get_job_status(job) not in ENDED, self.client.get_job_logs(job)
            assert time.monotonic() < deadline, self.client.get_job_logs(job)
            time.sleep(0.2)

    def ends(self, job: str, seconds: float = 300) -> JobStatus:
        deadline = time.monotonic() + seconds
        while (status := self.client.get_job_status(job)) not in ENDED:
            assert time.monotonic() < deadline, self.client.get_job_logs(job)
            time.sleep(0.5)
        return status

    def metrics(self) -> str:
        """What Prometheus is told by all nodes, which it finds as Ray's documentation says."""
        listing = Path(self.nodes.head_node.get_temp_dir_path()) / "prom_metrics_service_discovery.json"
        targets = [target for group in json.loads(listing.read_text()) for target in group["targets"]]
        pages = [_page(f"http://{target}/metrics") for target in targets]
        return "\n".join(pages)

    def lose_the_node_of(self, worker: str) -> None:
        """Without notice; another node comes in its place."""
        pids = {process.ppid() for process in _processes(worker)}
        node = next(node for node in self.nodes.worker_nodes if _raylet(node) in pids)
        self.nodes.remove_node(node, allow_graceful=False)
        add_node(self.nodes, 1)


def _page(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.read().decode()
    except OSError:
        # Of a lost node.
        return ""


def _processes(worker: str) -> list[psutil.Process]:
    return [process for process in psutil.process_iter() if worker in " ".join(_arguments(process))]


def _arguments(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _raylet(node: object) -> int:
    return node.all_processes["raylet"][0].process.pid  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    local = LocalCluster()
    yield local
    local.nodes.shutdown()


def test_jobs_end_in_the_same_set_whatever_is_lost(cluster: LocalCluster, tmp_path: Path) -> None:
    straight, store = tmp_path / "straight", tmp_path / "store"
    process = start(straight, SETS)
    output = finish(process)
    assert process.returncode == 0, output

    job, printed = cluster.submit(store)
    assert job == submission_name(load_experiment(PRESET, SETS), str(store)) + "-1"
    assert f"ray job logs --address http://127.0.0.1:{PORT} --follow {job}" in printed
    cluster.wait(job, lambda: bool(checkpoints(store, "expert")))
    assert cluster.submit(store)[1].startswith(f"{job} runs already")
    # A node during the experts, and the driver during the distillation.
    cluster.lose_the_node_of("ExpertActor")
    cluster.wait(job, lambda: "ray_vldd_units{" in (page := cluster.metrics()) and "ray_vldd_retries_total{" in page)
    cluster.wait(job, lambda: bool(checkpoints(store, "distillation")))
    logs = cluster.client.get_job_logs(job)
    assert "tried again, its process or machine ended" in logs
    assert "\x1b" not in logs
    assert "Raylet is terminated" not in logs, "Ray's account of a lost node, of thirty lines"
    (driver,) = [p for p in psutil.process_iter() if _arguments(p)[1:3] == ["-m", "jobs.run"]]
    driver.kill()
    assert cluster.ends(job) == JobStatus.FAILED
    (status,) = read_statuses(Store(str(store)))
    assert status.state == "running", "as its driver last said"

    # Stopped by signal.
    job, printed = cluster.submit(store)
    assert printed.startswith(f"{job} submitted")
    assert job.endswith("-2")
    cluster.wait(job, lambda: _distils(store, since=status))
    cluster.client.stop_job(job)
    assert cluster.ends(job) == JobStatus.STOPPED
    assert "the same command goes on" in cluster.client.get_job_logs(job)
    (status,) = read_statuses(Store(str(store)))
    assert status.state == "stopped"

    # A node during the distillation.
    job, _ = cluster.submit(store)
    cluster.wait(job, lambda: bool(_processes("ray::distillation")))
    cluster.lose_the_node_of("ray::distillation")
    assert cluster.ends(job) == JobStatus.SUCCEEDED, cluster.client.get_job_logs(job)
    assert "distillation 4 pairs seed 0: tried again, its process or machine ended" in cluster.client.get_job_logs(job)
    assert result(store) == result(straight)
    (status,) = read_statuses(Store(str(store)))
    assert status.state == "done"
    assert {(stage.done, stage.failed) for stage in status.stages.values()} == {
        (stage.total, 0) for stage in status.stages.values()
    }


def _distils(store: Path, since: RunStatus) -> bool:
    """Whether a driver that came after this status says so."""
    (status,) = read_statuses(Store(str(store)))
    return status.written_at > since.written_at and any("distillation" in unit.label for unit in status.running)
