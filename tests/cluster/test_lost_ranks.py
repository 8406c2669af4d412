"""The main job, started by its command, with two ranks for each distillation: one rank is killed, others hang."""

import re
import shutil
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from tests.cluster.main_job import RANKS, checkpoints, finish, start, wait_for, workers_of
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny_experiment import experiment, units_of
from vldd_dist.testing.experiments.tiny_units import digests

pytestmark = [pytest.mark.ray, pytest.mark.ranks]


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


def test_a_group_that_loses_a_rank_or_hangs_resumes_from_its_checkpoint(
    before_distillation: Path, distilled_on_ranks: Path, tmp_path: Path
) -> None:
    """One rank is killed, then rank 0 of the group that replaces it hangs, then rank 1 of the next."""
    shutil.copytree(before_distillation, tmp_path / "store")
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
    said = r"rank (\d) of 2 did not answer the others, it hangs or its network failed \(rank (\d): .*[Tt]imed out"
    hung = re.findall(said, output)
    assert [sorted(ranks) for ranks in hung] == [["0", "1"]] * 2, output
    for rank in hanging:
        assert not rank.is_running() or rank.status() == psutil.STATUS_ZOMBIE
    (unit,) = units_of(experiment(*RANKS), "distillation")
    assert digests(Store(str(tmp_path / "store")), unit) == digests(Store(str(distilled_on_ranks)), unit)
