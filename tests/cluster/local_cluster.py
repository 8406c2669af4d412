"""A cluster of several raylets for tests, which submit jobs, remove nodes and read metrics."""

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Set
from pathlib import Path
from typing import Any

import psutil
from ray.job_submission import JobStatus, JobSubmissionClient

from cluster.local import add_node
from vldd_dist.ray_backend.submitting.submit import ENDED
from vldd_dist.testing.experiments.tiny import HANG_SECONDS
from vldd_dist.testing.servers.ports import free_port

PRESET = "jobs/presets/scenes.yaml"


class LocalCluster:
    """Attributes:
    nodes: Ray's object for the cluster.
    dashboard: its URL.
    earlier: ids of the test's own processes that ran before the cluster started.
    """

    def __init__(self, nodes: Any, dashboard: str, earlier: Set[int]) -> None:
        self.nodes, self.dashboard, self.earlier = nodes, dashboard, earlier
        self.client = JobSubmissionClient(dashboard)

    def submit(self, store: Path, overrides: list[str]) -> tuple[str, str]:
        """Submit the preset `scenes`; returns the job's id and the output of the command."""
        sets = [part for override in overrides for part in ("--set", override)]
        program = [sys.executable, "-c", "from vldd_dist.cli.main import main; main()", "submit", PRESET, "--store", str(store)]
        command = [*program, "--address", self.dashboard, *sets]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout.split()[0], ended.stdout

    def wait(self, job: str, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + HANG_SECONDS
        while not condition():
            assert self.client.get_job_status(job) not in ENDED, self.client.get_job_logs(job)
            assert time.monotonic() < deadline, self.client.get_job_logs(job)
            time.sleep(0.2)

    def ends(self, job: str) -> JobStatus:
        deadline = time.monotonic() + HANG_SECONDS
        while (status := self.client.get_job_status(job)) not in ENDED:
            assert time.monotonic() < deadline, self.client.get_job_logs(job)
            time.sleep(0.5)
        return status

    def metrics(self) -> str:
        """The metrics of all nodes, which are found by Ray's service-discovery file for Prometheus."""
        listing = Path(self.nodes.head_node.get_temp_dir_path()) / "prom_metrics_service_discovery.json"
        targets = [target for group in json.loads(listing.read_text()) for target in group["targets"]]
        pages = [_page(f"http://{target}/metrics") for target in targets]
        return "\n".join(pages)

    def processes(self, words: str) -> list[psutil.Process]:
        """The cluster's processes whose command line contains these words."""
        return [process for process in psutil.Process().children(recursive=True) if words in " ".join(arguments_of(process))]

    def lose_the_node_of(self, worker: str) -> None:
        """Remove the worker's node without notice, and add another node."""
        pids = {process.ppid() for process in self.processes(worker)}
        node = next(node for node in self.nodes.worker_nodes if _raylet(node) in pids)
        self.nodes.remove_node(node, allow_graceful=False)
        add_node(self.nodes, 1, free_port())


def arguments_of(process: psutil.Process) -> list[str]:
    """The command line of a process; empty if the process has ended."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _page(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.read().decode()
    except OSError:
        # The node is lost.
        return ""


def _raylet(node: object) -> int:
    return node.all_processes["raylet"][0].process.pid  # type: ignore[attr-defined]
