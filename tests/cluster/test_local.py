"""Access to the local cluster: only from this machine, and only with the token."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from ray.job_submission import JobSubmissionClient

from cluster.local import ensure_token
from tests.cluster.local_cluster import LocalCluster
from vldd_dist.testing.experiments.tiny import HANG_SECONDS
from vldd_dist.testing.servers.listening import LOOPBACK, listening_sockets
from vldd_dist.testing.servers.ports import free_port

DRIVER = "import ray; ray.init(); print(ray.get(ray.remote(lambda: 'worked').remote()), flush=True); input()"
ASK_CONTROL_SERVICE = (
    "from ray._raylet import GcsClient; GcsClient(address='{}').internal_kv_keys(b'', namespace=None, timeout=10)"
)
# Checked before `ray.init`, which would try for 20 seconds.
JOIN = """
import os, ray
from vldd_dist.errors import ConfigError
from vldd_dist.ray_backend.joining import join_cluster
ray.init = None
try:
    join_cluster(os.environ["RAY_ADDRESS"])
except ConfigError as error:
    print(error)
"""
STATUS = "from vldd_dist.cli.main import main; main()"


@pytest.mark.ray
def test_no_other_machine_reaches_a_service_of_the_cluster(cluster: LocalCluster) -> None:
    environment = os.environ | {"RAY_ADDRESS": cluster.nodes.address}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", DRIVER], env=environment, **pipes) as driver:
        assert driver.stdout.readline() == "worked\n"
        sockets = listening_sockets(but=cluster.earlier)
        driver.communicate("\n")
    names = {name for name, _ in sockets}
    assert {"gcs_server", "raylet"} <= names, names
    assert len(sockets) > 10
    assert [place for place in sockets if place[1] not in LOOPBACK] == []


def without_token(program: str, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")} | more
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.ray
def test_a_cluster_beside_another_accepts_jobs_as_soon_as_it_has_started(cluster: LocalCluster) -> None:
    port = free_port()
    command = [sys.executable, "-m", "cluster.local", "--nodes", "1", "--dashboard-port"]
    taken = cluster.dashboard.rpartition(":")[2]
    refused = subprocess.run([*command, taken], capture_output=True, text=True, check=False)
    assert (refused.returncode, "the port is in use" in refused.stderr) == (2, True)
    with subprocess.Popen([*command, str(port)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert "are up" in other.stdout.readline()
        client = JobSubmissionClient(f"http://127.0.0.1:{port}")
        job = client.submit_job(entrypoint="true", entrypoint_num_cpus=0)
        assert job in {known.submission_id for known in client.list_jobs()}
        other.terminate()
        assert other.wait(HANG_SECONDS) == 0


@pytest.mark.ray
@pytest.mark.parametrize("wrong", [{}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}], ids=["none", "another"])
def test_requests_without_the_token_are_refused(cluster: LocalCluster, wrong: dict[str, str], tmp_path: Path) -> None:
    refused = without_token(ASK_CONTROL_SERVICE.format(cluster.nodes.address), **wrong)
    assert refused.returncode == 1
    assert "AuthenticationError" in refused.stderr or "nauthenticated" in refused.stderr, refused.stderr
    refused = without_token(JOIN, RAY_ADDRESS=cluster.nodes.address, **wrong)
    assert refused.stdout.startswith(f"RAY_ADDRESS={cluster.nodes.address}: the cluster asks for its token"), refused.stderr
    assert "set RAY_AUTH_MODE=token" in refused.stdout
    refused = without_token(STATUS, "status", str(tmp_path), "--address", cluster.dashboard, **wrong)
    assert refused.returncode == 2, refused.stderr
    (sentence,) = refused.stderr.splitlines()
    assert f"--address {cluster.dashboard}: the cluster asks for its token" in sentence
    assert "set RAY_AUTH_MODE=token" in sentence


@pytest.mark.ray
def test_requests_with_the_token_list_the_jobs(cluster: LocalCluster, tmp_path: Path) -> None:
    ended = without_token(
        STATUS,
        *("status", str(tmp_path), "--address", cluster.dashboard),
        **{name: value for name, value in os.environ.items() if name.startswith("RAY_AUTH")},
    )
    assert (ended.returncode, ended.stdout.splitlines()[-1]) == (0, f"{cluster.dashboard} has no job for this store"), (
        ended.stderr
    )


def test_no_two_servers_get_the_same_port() -> None:
    assert len({free_port() for _ in range(20)}) == 20


def test_the_token_is_made_once_and_readable_only_by_its_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / ".ray" / "auth_token"
    ensure_token()
    made = path.read_text()
    assert len(made) == 64
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    # A file as Ray writes it.
    path.chmod(0o644)
    ensure_token()
    assert path.read_text() == made
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_a_token_that_the_environment_names_is_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_TOKEN", "given")
    ensure_token()
    assert list(tmp_path.iterdir()) == []
