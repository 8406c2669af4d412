"""A Ray cluster without machines and with Ray's real autoscaler: waiting units make it start machines."""

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

from cluster.local import LOOPBACK, wait_for_agents
from tests.cluster.main_job import command
from vldd_dist.ray_backend.submitting.submit import ENDED
from vldd_dist.testing.experiments.tiny import HANG_SECONDS, TINY
from vldd_dist.testing.servers.ports import free_port

pytestmark = pytest.mark.ray
CONFIG = {
    "cluster_name": "from-nothing",
    "max_workers": 2,
    "idle_timeout_minutes": 1,
    "upscaling_speed": 10.0,
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
    port, dashboard, agent = free_port(), free_port(), free_port()
    config = tmp_path / "autoscaling.yaml"
    # The nodes are raylets on this machine, which connect to the head at this address.
    provider = {"type": "fake_multinode", "gcs_address": f"{LOOPBACK}:{port}"}
    config.write_text(yaml.safe_dump(CONFIG | {"provider": provider}))
    program = [
        *(os.path.join(os.path.dirname(sys.executable), "ray"), "start", "--head", "--block"),
        *(
            "--node-ip-address",
            LOOPBACK,
            "--port",
            str(port),
            "--num-cpus",
            "0",
            "--num-gpus",
            "0",
            "--dashboard-port",
            str(dashboard),
        ),
        *("--dashboard-agent-listen-port", str(agent)),
        *("--autoscaling-config", str(config)),
    ]
    environment = os.environ | {
        "RAY_FAKE_CLUSTER": "1",
        "PATH": f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}",
    }
    with open(tmp_path / "head.log", "w") as log:
        head = subprocess.Popen(program, env=environment, start_new_session=True, stdout=log, stderr=subprocess.STDOUT)
    try:
        client = _client(f"http://{LOOPBACK}:{dashboard}", tmp_path / "head.log", head)
        wait_for_agents(f"{LOOPBACK}:{port}", 1)
        yield client
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


def _client(url: str, log: Path, head: subprocess.Popen[bytes]) -> JobSubmissionClient:
    deadline = time.monotonic() + HANG_SECONDS
    while True:
        assert head.poll() is None, log.read_text()
        try:
            return JobSubmissionClient(url)
        except (ConnectionError, RuntimeError):
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.5)


def test_a_run_makes_its_machines_come(cluster: JobSubmissionClient, tmp_path: Path) -> None:
    store = tmp_path / "store"
    _, *rest = command(store, TINY)
    job = cluster.submit_job(
        entrypoint=" ".join(["python", *(f"'{part}'" for part in rest), "--until", "data"]),
        runtime_env={"working_dir": "."},
        entrypoint_num_cpus=0,
    )
    deadline = time.monotonic() + HANG_SECONDS
    while (status := cluster.get_job_status(job)) not in ENDED:
        assert time.monotonic() < deadline, cluster.get_job_logs(job)
        time.sleep(1)
    logs = cluster.get_job_logs(job)
    assert status == JobStatus.SUCCEEDED, logs
    assert "the machines have 0 CPUs and 0 GPUs now: waiting for machines" in logs
    assert {path.parent.parent.name for path in (store / "units").glob("*/*/manifest.json")} == {
        "shard_group",
        "dataset",
        "embedding_group",
        "caption_embeddings",
    }
