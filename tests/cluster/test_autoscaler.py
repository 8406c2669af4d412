"""A cluster of no machines, with Ray's real autoscaler: what a run submits makes them come."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml
from ray.job_submission import JobStatus, JobSubmissionClient

from tests.cluster.test_run import command
from tests.conftest import TINY
from vldd_dist.orchestration.submit import ENDED

DASHBOARD = 8296
pytestmark = pytest.mark.ray
CONFIG = {
    "cluster_name": "from-nothing",
    "max_workers": 2,
    "idle_timeout_minutes": 1,
    "upscaling_speed": 10.0,
    # Nodes are raylets on this machine.
    "provider": {"type": "fake_multinode"},
    "available_node_types": {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "worker": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2},
    },
    "head_node_type": "ray.head.default",
    "auth": {},
    "docker": {},
    "setup_commands": [],
    "head_setup_commands": [],
    "worker_setup_commands": [],
    "head_start_ray_commands": [],
    "worker_start_ray_commands": [],
    "file_mounts": {},
    "cluster_synced_files": [],
    "initialization_commands": [],
    "rsync_exclude": [],
    "rsync_filter": [],
}


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[JobSubmissionClient]:
    config = tmp_path / "autoscaling.yaml"
    config.write_text(yaml.safe_dump(CONFIG))
    program = [
        *(os.path.join(os.path.dirname(sys.executable), "ray"), "start", "--head", "--block"),
        # The fake provider's nodes look for their head at this port.
        *("--port", "6379", "--num-cpus", "0", "--num-gpus", "0", "--dashboard-port", str(DASHBOARD)),
        *("--autoscaling-config", str(config)),
    ]
    environment = os.environ | {
        "RAY_FAKE_CLUSTER": "1",
        "PATH": f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}",
    }
    with open(tmp_path / "head.log", "w") as log:
        head = subprocess.Popen(program, env=environment, start_new_session=True, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield _client(tmp_path / "head.log", head)
    finally:
        children = psutil.Process(head.pid).children(recursive=True)
        head.send_signal(signal.SIGTERM)
        for child in children:
            try:
                child.kill()
            except psutil.Error:
                continue
        head.kill()
        head.wait()


def _client(log: Path, head: subprocess.Popen[bytes]) -> JobSubmissionClient:
    deadline = time.monotonic() + 60
    while True:
        assert head.poll() is None, log.read_text()
        try:
            return JobSubmissionClient(f"http://127.0.0.1:{DASHBOARD}")
        except (ConnectionError, RuntimeError):
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.5)


def test_a_run_makes_its_machines_come(cluster: JobSubmissionClient, tmp_path: Path) -> None:
    store = tmp_path / "store"
    _, *rest = command(store, TINY)
    job = cluster.submit_job(
        entrypoint=" ".join(["python", *(f"'{part}'" for part in rest), "--until", "experts"]),
        runtime_env={"working_dir": "."},
        entrypoint_num_cpus=0,
    )
    deadline = time.monotonic() + 240
    while (status := cluster.get_job_status(job)) not in ENDED:
        assert time.monotonic() < deadline, cluster.get_job_logs(job)
        time.sleep(1)
    logs = cluster.get_job_logs(job)
    assert status == JobStatus.SUCCEEDED, logs
    assert "the machines have 0 and 0 now: waiting for machines" in logs
    experts = [json.loads(path.read_text()) for path in (store / "units" / "expert").glob("*/manifest.json")]
    assert len(experts) == 2
