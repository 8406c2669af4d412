"""The main job with two ranks a distillation, by its real command: a rank that is killed, one that hangs."""

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.cluster.test_run import checkpoints, finish, start, wait_for, workers_of
from tests.conftest import TINY
from tests.orchestration.test_pipeline import experiment, run
from vldd_dist.orchestration.plan import make_plan
from vldd_dist.storage.store import Store

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


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything but distillations and what follows them."""
    store = Store(str(tmp_path_factory.mktemp("prepared")))
    later = ("distillation", "publication", "evaluation")
    run(store, [unit for unit in make_plan(experiment(*RANKS)).units() if unit.kind not in later])
    return store.root  # type: ignore[return-value]


@pytest.fixture
def store(prepared: Path, tmp_path: Path) -> Path:
    shutil.copytree(prepared, tmp_path / "store")
    return tmp_path / "store"


def digests(store: Path) -> dict[str, str]:
    (manifest,) = (store / "units/distillation").glob("*/manifest.json")
    return {name: info["sha256"] for name, info in json.loads(manifest.read_text())["objects"].items()}


def disturbed(store: Path, disturb: Callable[[list[psutil.Process]], None]) -> str:
    """What the command prints, when its ranks are disturbed after their first checkpoint."""
    process = start(store, RANKS)
    wait_for(lambda: bool(checkpoints(store, "distillation")), process)
    ranks = sorted(workers_of(process, "RankActor.run"), key=lambda worker: worker.pid)
    assert len(ranks) == 2
    disturb(ranks)
    output = finish(process)
    assert process.returncode == 0, output
    return output


def test_a_killed_rank_restarts_the_group_from_its_checkpoint(store: Path, tmp_path: Path, prepared: Path) -> None:
    output = disturbed(store, lambda ranks: ranks[1].kill())
    assert "tried again, rank" in output, output
    assert "of 2: its process or machine ended" in output, output
    straight = tmp_path / "straight"
    shutil.copytree(prepared, straight)
    process = start(straight, RANKS)
    assert "tried again" not in finish(process)
    assert digests(store) == digests(straight)


@pytest.mark.parametrize("position", [0, 1])
def test_a_rank_that_hangs_is_named_and_given_up(store: Path, position: int) -> None:
    stopped: list[psutil.Process] = []

    def stop(ranks: list[psutil.Process]) -> None:
        stopped.append(ranks[position])
        ranks[position].send_signal(signal.SIGSTOP)

    output = disturbed(store, stop)
    assert "of 2 took no part in a collective operation for 10 s: it hangs" in output, output
    assert not stopped[0].is_running() or stopped[0].status() == psutil.STATUS_ZOMBIE
