"""The time from the loss of a node until its expert is trained again."""

import os
import tempfile
import time
from typing import Any

from cluster.local import free_port, start_cluster
from vldd_dist.artifacts.units import mark_store
from vldd_dist.config.loading.load import load_experiment
from vldd_dist.events import RunEvent, UnitRetried
from vldd_dist.monitoring.live.run_state import RunState, View
from vldd_dist.pipeline.graphs.experiment import Graph
from vldd_dist.ray_backend.executor import connected_executor
from vldd_dist.scheduler.controller import Controller
from vldd_dist.store.store import Store

OVERRIDES = [
    *("data.train_images=600", "data.val_images=50", "data.test_images=50", "data.shard_images=300"),
    *("model.image.weights=random", "experts.count=1", "experts.epochs=40"),
]


class Watch(View):
    """A view that removes the expert's node after some epochs, and records when the expert is trained again."""

    def __init__(self, cluster: Any) -> None:
        self.cluster = cluster
        self.lost_at: float | None = None
        self.lost_epoch = 0
        self.again_at: float | None = None
        self.again_epoch = 0
        self._retried = False

    def event(self, event: RunEvent, state: RunState) -> None:
        self._retried = self._retried or isinstance(event, UnitRetried)

    def refresh(self, state: RunState) -> None:
        for running in state.running.values():
            epoch = (running.progress and running.progress.epoch) or 0
            if running.unit.kind != "expert" or not epoch:
                continue
            if self.lost_at is None and epoch >= 4:
                self.lost_epoch = epoch
                # The expert runs on one of two nodes. That node is removed without notice and not replaced.
                (node,) = [node for node in self.cluster.worker_nodes if _trains(node)]
                self.lost_at = time.monotonic()
                self.cluster.remove_node(node, allow_graceful=False)
            elif self._retried and self.again_at is None:
                self.again_at, self.again_epoch = time.monotonic(), epoch


def _trains(node: Any) -> bool:
    import psutil

    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    return any("UnitActor" in " ".join(child.cmdline()) for child in raylet.children(recursive=True))


def recovery_seconds() -> float:
    """Seconds from the loss of the node to the first report of the resumed expert, on a cluster of two nodes with one
    expert."""
    cluster = start_cluster(2, 1, dashboard_port=free_port())
    os.environ["RAY_ADDRESS"] = cluster.address
    try:
        with tempfile.TemporaryDirectory() as folder:
            units = Graph(load_experiment("jobs/presets/scenes.yaml", OVERRIDES)).units("experts")
            watch, store = Watch(cluster), Store(folder)
            mark_store(store)
            Controller(
                units,
                store,
                lambda: connected_executor(store),
                RunState([watch]),
                should_stop=lambda: watch.again_at is not None,
            ).run()
    except KeyboardInterrupt:
        # `should_stop` ends the run in this way.
        if watch.again_at is None:
            raise
    finally:
        cluster.shutdown()
        del os.environ["RAY_ADDRESS"]
    assert watch.lost_at is not None
    assert watch.again_at is not None
    assert watch.again_epoch >= watch.lost_epoch - 1, "the expert did not resume from its checkpoint"
    return watch.again_at - watch.lost_at
