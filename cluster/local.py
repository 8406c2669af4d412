"""A Ray cluster of several nodes on one machine, to try what a real one does.

    python -m cluster.local [--nodes 2] [--cpus 1]

A head that runs no work, as on a real cluster, and nodes that do. It prints how to reach it, and ends with Ctrl-C.
"""

import argparse
import os
import signal
import sys
import threading

# Between processes of one user on one machine; a cluster that others reach keeps Ray's tokens.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
# Jobs start with `python`: this one.
os.environ["PATH"] = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"

from ray.cluster_utils import Cluster

# A node's death is noticed within seconds.
HEALTH = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 3,
}


def start_cluster(nodes: int, cpus: int, dashboard_port: int = 8265) -> Cluster:
    """The head with its dashboard, and `nodes` nodes of `cpus` CPU cores each."""
    head = {
        "num_cpus": 0,
        "include_dashboard": True,
        "dashboard_host": "127.0.0.1",
        "dashboard_port": dashboard_port,
        "_system_config": HEALTH,
    }
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(nodes):
        cluster.add_node(num_cpus=cpus)
    cluster.wait_for_nodes()
    return cluster


def main() -> None:
    parser = argparse.ArgumentParser(description="A Ray cluster of several nodes on this machine.")
    parser.add_argument("--nodes", type=int, default=2, help="nodes that work")
    parser.add_argument("--cpus", type=int, default=1, help="CPU cores of each")
    parser.add_argument("--dashboard-port", type=int, default=8265)
    arguments = parser.parse_args()
    cluster = start_cluster(arguments.nodes, arguments.cpus, arguments.dashboard_port)
    print(f"{arguments.nodes} nodes of {arguments.cpus} CPUs are up; in another shell:", flush=True)
    print("  export RAY_AUTH_MODE=disabled")
    print(f"  export RAY_API_SERVER_ADDRESS=http://127.0.0.1:{arguments.dashboard_port}")
    print("  vldd submit jobs/presets/scenes.yaml --store $PWD/cluster-store")
    print("Ctrl-C ends it; what is committed stays in the store.", flush=True)
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, frame: stopped.set())
    stopped.wait()
    cluster.shutdown()


if __name__ == "__main__":
    main()
