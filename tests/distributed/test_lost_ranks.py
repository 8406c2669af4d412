"""The main job, started by its command, with two ranks for each distillation: one rank is killed, others hang."""

import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.cluster.test_run import checkpoints, finish, start, wait_for, workers_of
from tests.distributed.stopping import execute_until
from vldd_dist.pipeline.graphs.experiment import Graph
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny import TINY
from vldd_dist.testing.experiments.tiny_experiment import experiment, run, units_of
from vldd_dist.testing.experiments.tiny_units import digests
from vldd_dist.testing.processes.group import Group

pytestmark = pytest.mark.ray

RANKS = [
    *TINY,
    "distill.workers=2",
    "distill.outer_steps=40",
    "distill.validate_every=20",
    "distill.checkpoint_every=5",
    "distill.rank_timeout_seconds=10",
    "coresets.methods=[random]",
]


@pytest.fixture
def straight(group: Callable[[int], Group], tmp_path: Path) -> Path:
    """A store without the distillation and the units that need it. The folder "done" beside it holds the uninterrupted run."""
    units = Graph(experiment(*RANKS)).units()
    store = tmp_path / "store"
    run(Store(str(store)), [unit for unit in units if unit.kind not in ("distillation", "publication", "evaluation")])
    shutil.copytree(store, tmp_path / "done")
    (unit,) = units_of(experiment(*RANKS), "distillation")
    group(2).run(execute_until, str(tmp_path / "done"), unit, None)
    return tmp_path / "done"


class Ranks:
    """The ranks of the distillation that a running command has started."""

    def __init__(self, process: subprocess.Popen[str], store: Path) -> None:
        self.process, self.store = process, store
        self.ended: set[int] = set()

    def after_a_checkpoint(self) -> list[psutil.Process]:
        """Both ranks, once the newest group has stored a checkpoint of its own. The ranks of each group are returned once."""
        before = {mark.name for mark in checkpoints(self.store, "distillation")}
        wait_for(lambda: len(self._living()) == 2, self.process)
        wait_for(lambda: bool({mark.name for mark in checkpoints(self.store, "distillation")} - before), self.process)
        ranks = sorted(self._living(), key=lambda worker: worker.pid)
        self.ended |= {rank.pid for rank in ranks}
        return ranks

    def _living(self) -> list[psutil.Process]:
        return [worker for worker in workers_of(self.process, "RankActor.run") if worker.pid not in self.ended]


def test_a_group_that_loses_a_rank_or_hangs_resumes_from_its_checkpoint(straight: Path, tmp_path: Path) -> None:
    """One rank is killed, then rank 0 of the group that replaces it hangs, then rank 1 of the next."""
    process = start(tmp_path / "store", RANKS, more=("--until", "distillations"))
    ranks = Ranks(process, tmp_path / "store")
    ranks.after_a_checkpoint()[1].kill()
    hanging = []
    for position in (0, 1):
        hanging.append(ranks.after_a_checkpoint()[position])
        hanging[-1].send_signal(signal.SIGSTOP)
    output = finish(process)
    assert process.returncode == 0, output
    assert output.count("retried: rank") == 3, output
    assert "of 2: its process was killed" in output, output
    assert output.count("of 2 took no part in a collective operation for 10 s: it hangs") == 2, output
    for rank in hanging:
        assert not rank.is_running() or rank.status() == psutil.STATUS_ZOMBIE
    (unit,) = units_of(experiment(*RANKS), "distillation")
    assert digests(Store(str(tmp_path / "store")), unit) == digests(Store(str(straight)), unit)
