"""A Ray cluster of several nodes on one machine, to try what a real one does.

    python -m cluster.local [--nodes 2] [--cpus 1]

A head that runs no work, as on a real cluster, and nodes that do. It prints how to reach it, and ends with Ctrl-C.

Whoever reaches Ray's services runs programs as you. So they listen on 127.0.0.1 only, where no other machine reaches them, and
ask for a token, which other users of this machine cannot read.
"""

import argparse
import os
import secrets
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from socket import socket
from typing import Any

# Both are read when Ray is imported, and passed to its processes. The second is what Ray does on macOS and Windows: this
# machine's address is 127.0.0.1 for a process that joins, too, and not one that other machines reach.
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
# Jobs start with `python`: this one.
os.environ["PATH"] = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"

from ray._private.ray_constants import KV_NAMESPACE_DASHBOARD
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.cluster_utils import Cluster
from ray.dashboard.consts import DASHBOARD_AGENT_ADDR_NODE_ID_PREFIX

# A dead node refuses the question at once, and its death is noticed within three seconds. One that only answers late, on a busy
# machine, has five times five seconds.
HEALTH = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 5000,
    "health_check_failure_threshold": 5,
}


LOOPBACK = "127.0.0.1"
DASHBOARD = 8265
AGENT_SECONDS = 120.0
AGENTS = DASHBOARD_AGENT_ADDR_NODE_ID_PREFIX.encode()


def free_port() -> int:
    """A port of this machine on which nobody listens."""
    with socket() as probe:
        probe.bind((LOOPBACK, 0))
        return probe.getsockname()[1]


def is_taken(port: int) -> bool:
    """Whether somebody listens on a port of this machine."""
    with socket() as probe:
        return probe.connect_ex((LOOPBACK, port)) == 0


def ensure_token() -> None:
    """Have a token where Ray looks for it: as the environment says (RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH), else in
    ~/.ray/auth_token, made here if it is missing. Only its owner may read that file; Ray itself makes it readable to all."""
    if "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ:
        return
    path = Path.home() / ".ray" / "auth_token"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Whole or not there: a file that is there and still empty would be taken for the token by another process.
    with tempfile.NamedTemporaryFile("w", dir=path.parent) as made:
        made.write(secrets.token_hex(32))
        made.flush()
        try:
            os.link(made.name, path)
        except FileExistsError:
            path.chmod(0o600)


def start_cluster(nodes: int, cpus: int, dashboard_port: int = DASHBOARD) -> Cluster:
    """The head with its dashboard, and `nodes` nodes of `cpus` CPU cores each."""
    ensure_token()
    head = {
        "node_ip_address": LOOPBACK,
        "num_cpus": 0,
        "include_dashboard": True,
        "dashboard_host": LOOPBACK,
        "dashboard_port": dashboard_port,
        # Ray's is one for all clusters of a machine, and a job is submitted to the agent of the head.
        "dashboard_agent_listen_port": (agent_port := free_port()),
        "_system_config": HEALTH,
    }
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(nodes):
        add_node(cluster, cpus)
    cluster.wait_for_nodes()
    wait_for_agents(cluster.gcs_address, nodes + 1)
    # An agent is known a moment before it answers.
    for port in (agent_port, dashboard_port):
        wait_for_port(port)
    return cluster


def wait_for_port(port: int) -> None:
    """Until somebody of this machine listens on the port."""
    deadline = time.monotonic() + AGENT_SECONDS
    while not is_taken(port):
        if time.monotonic() > deadline:
            raise TimeoutError(f"nobody listens on port {port} after {AGENT_SECONDS:g} s: see /tmp/ray/session_latest/logs")
        time.sleep(0.1)


def wait_for_agents(gcs_address: str, nodes: int) -> None:
    """Until the agents of so many nodes are there: without that of the head a cluster refuses jobs."""
    client = GcsClient(address=gcs_address)
    deadline = time.monotonic() + AGENT_SECONDS
    while len(client.internal_kv_keys(AGENTS, namespace=KV_NAMESPACE_DASHBOARD, timeout=10)) < nodes:
        if time.monotonic() > deadline:
            raise TimeoutError(f"no agents of {nodes} nodes after {AGENT_SECONDS:g} s: see /tmp/ray/session_latest/logs")
        time.sleep(0.1)


def add_node(cluster: Cluster, cpus: int) -> Any:
    """A further node of `cpus` CPU cores; Ray's object for it."""
    # Nodes of one machine share the session's folder. In one folder for the packages of jobs a node that comes would replace
    # those that the workers of others stand in.
    packages = f"runtime_resources_{secrets.token_hex(4)}"
    # An agent whose port another cluster has would not start.
    ports = {"dashboard_agent_listen_port": free_port()}
    return cluster.add_node(num_cpus=cpus, node_ip_address=LOOPBACK, runtime_env_dir_name=packages, **ports)


def main() -> None:
    parser = argparse.ArgumentParser(description="A Ray cluster of several nodes on this machine.")
    parser.add_argument("--nodes", type=int, default=2, help="nodes that work")
    parser.add_argument("--cpus", type=int, default=1, help="CPU cores of each")
    parser.add_argument("--dashboard-port", type=int, help=f"{DASHBOARD}, or a free one where another Ray has that")
    arguments = parser.parse_args()
    dashboard_port = arguments.dashboard_port or (free_port() if is_taken(DASHBOARD) else DASHBOARD)
    if is_taken(dashboard_port):
        parser.error(f"--dashboard-port {dashboard_port}: somebody listens there, another Ray perhaps: name another port")
    cluster = start_cluster(arguments.nodes, arguments.cpus, dashboard_port)
    print(f"{arguments.nodes} nodes of {arguments.cpus} CPUs are up; in another shell:", flush=True)
    print(f"  export RAY_AUTH_MODE={os.environ['RAY_AUTH_MODE']}")
    print(f"  export RAY_API_SERVER_ADDRESS=http://{LOOPBACK}:{dashboard_port}")
    print("  vldd submit jobs/presets/scenes.yaml --store $PWD/cluster-store")
    print("Ctrl-C ends it; what is committed stays in the store.", flush=True)
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, frame: stopped.set())
    stopped.wait()
    cluster.shutdown()


if __name__ == "__main__":
    main()
