"""Starts a Ray cluster of several nodes on one machine, to try what a real cluster does.

    python -m cluster.local [--nodes 2] [--cpus 1]

As on a real cluster, the head runs no work, and the nodes do. The program prints how to reach the cluster. Ctrl-C ends it.

Anybody who reaches Ray's services can run programs as you. So they listen on 127.0.0.1 only, which other machines cannot reach,
and require a token, which other users of this machine cannot read.
"""

import argparse
import os
import secrets
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from socket import socket
from typing import Any

# Ray reads both when it is imported, and passes them to its processes. The second is Ray's default on macOS and Windows: this
# machine's address is 127.0.0.1, also for processes that join, and not one that other machines can reach.
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
# Jobs start `python`, which must be this one.
os.environ["PATH"] = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"

from ray._private.ray_constants import KV_NAMESPACE_DASHBOARD
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.cluster_utils import Cluster
from ray.dashboard.consts import DASHBOARD_AGENT_ADDR_NODE_ID_PREFIX

# A dead node refuses a health check at once, so its death is noticed within three seconds. A node that answers late because
# the machine is busy has five times five seconds.
HEALTH = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 5000,
    "health_check_failure_threshold": 5,
}


LOOPBACK = "127.0.0.1"
DASHBOARD = 8265
# Below the ports that Linux gives to outgoing connections, and above those of Ray's workers: no other program gets a port
# between its choice and the start of the process that listens there.
PORTS = range(20_000, 26_000)
AGENT_SECONDS = 120.0
AGENTS = DASHBOARD_AGENT_ADDR_NODE_ID_PREFIX.encode()


def free_port() -> int:
    """A port of this machine on which no process listens."""
    while True:
        port = secrets.choice(PORTS)
        with suppress(OSError), socket() as probe:
            probe.bind((LOOPBACK, port))
            return port


def is_taken(port: int) -> bool:
    """Whether a process listens on this port of this machine."""
    with socket() as probe:
        return probe.connect_ex((LOOPBACK, port)) == 0


def ensure_token() -> None:
    """Make sure that Ray finds a token: in RAY_AUTH_TOKEN, in the file that RAY_AUTH_TOKEN_PATH names, or else in
    ~/.ray/auth_token. That file is created if it is missing, readable only by its owner; Ray would make it readable to all."""
    if "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ:
        return
    path = Path.home() / ".ray" / "auth_token"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # The file must appear with its content, because another process would take an empty file for the token.
    with tempfile.NamedTemporaryFile("w", dir=path.parent) as made:
        made.write(secrets.token_hex(32))
        made.flush()
        try:
            os.link(made.name, path)
        except FileExistsError:
            path.chmod(0o600)


def start_cluster(
    nodes: int, cpus: int, dashboard_port: int = DASHBOARD, port_of_agent: Callable[[], int] = free_port
) -> Cluster:
    """Start a head with its dashboard, and `nodes` nodes with `cpus` CPU cores each.

    Args:
        port_of_agent: returns the port of the next node's agent.
    """
    ensure_token()
    head = {
        "node_ip_address": LOOPBACK,
        "num_cpus": 0,
        "include_dashboard": True,
        "dashboard_host": LOOPBACK,
        "dashboard_port": dashboard_port,
        # Ray's default port is the same for all clusters of a machine, and a job is submitted to the agent of the head.
        "dashboard_agent_listen_port": (agent_port := port_of_agent()),
        "_system_config": HEALTH,
    }
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(nodes):
        add_node(cluster, cpus, port_of_agent())
    cluster.wait_for_nodes()
    wait_for_agents(cluster.gcs_address, nodes + 1)
    # An agent is registered a moment before it answers.
    for port in (agent_port, dashboard_port):
        wait_for_port(port)
    return cluster


def wait_for_port(port: int) -> None:
    """Wait until a process listens on this port of this machine. Raises TimeoutError."""
    deadline = time.monotonic() + AGENT_SECONDS
    while not is_taken(port):
        if time.monotonic() > deadline:
            raise TimeoutError(f"nothing listens on port {port} after {AGENT_SECONDS:g} s: see /tmp/ray/session_latest/logs")
        time.sleep(0.1)


def wait_for_agents(gcs_address: str, nodes: int) -> None:
    """Wait until the agents of this many nodes are registered: without the head's agent, a cluster refuses jobs. Raises
    TimeoutError."""
    client = GcsClient(address=gcs_address)
    deadline = time.monotonic() + AGENT_SECONDS
    while len(client.internal_kv_keys(AGENTS, namespace=KV_NAMESPACE_DASHBOARD, timeout=10)) < nodes:
        if time.monotonic() > deadline:
            raise TimeoutError(
                f"the agents of {nodes} nodes did not start within {AGENT_SECONDS:g} s: see /tmp/ray/session_latest/logs"
            )
        time.sleep(0.1)


def add_node(cluster: Cluster, cpus: int, agent_port: int | None = None) -> Any:
    """Add a node with `cpus` CPU cores, whose agent has this port or a free one. Returns Ray's object for it."""
    # Nodes on one machine share the session's folder. If they also shared the folder for the files of jobs, a new node would
    # replace the working directories of other nodes' workers.
    packages = f"runtime_resources_{secrets.token_hex(4)}"
    # An agent does not start if another cluster uses its port.
    ports = {"dashboard_agent_listen_port": agent_port or free_port()}
    return cluster.add_node(num_cpus=cpus, node_ip_address=LOOPBACK, runtime_env_dir_name=packages, **ports)


def main() -> None:
    parser = argparse.ArgumentParser(description="A Ray cluster of several nodes on this machine.")
    parser.add_argument("--nodes", type=int, default=2, help="number of nodes that run work (default: 2)")
    parser.add_argument("--cpus", type=int, default=1, help="CPU cores of each node (default: 1)")
    parser.add_argument("--dashboard-port", type=int, help=f"default: {DASHBOARD}, or a free port if another Ray uses that")
    arguments = parser.parse_args()
    dashboard_port = arguments.dashboard_port or (free_port() if is_taken(DASHBOARD) else DASHBOARD)
    if is_taken(dashboard_port):
        parser.error(f"--dashboard-port {dashboard_port}: the port is in use, perhaps by another Ray: name another port")
    cluster = start_cluster(arguments.nodes, arguments.cpus, dashboard_port)
    print(f"{arguments.nodes} nodes with {arguments.cpus} CPUs each are up; in another shell:", flush=True)
    print(f"  export RAY_AUTH_MODE={os.environ['RAY_AUTH_MODE']}")
    print(f"  export RAY_API_SERVER_ADDRESS=http://{LOOPBACK}:{dashboard_port}")
    print("  vldd submit jobs/presets/scenes.yaml --store $PWD/cluster-store")
    print("Ctrl-C ends the cluster; what is committed stays in the store.", flush=True)
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, frame: stopped.set())
    stopped.wait()
    cluster.shutdown()


if __name__ == "__main__":
    main()
