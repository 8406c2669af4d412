"""The main job as a process: its command, what the tests wait for while it runs, and its results in the store."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from vldd_dist.testing.experiments.tiny import HANG_SECONDS, TINY

# Long enough that a kill hits the intended unit, on a fast machine too. A distillation starts while the second expert runs, and
# waits for it.
LONGER = [
    *TINY,
    "data.train_images=160",
    "experts.epochs=6",
    "distill.outer_steps=100",
    "distill.validate_every=25",
    "distill.checkpoint_every=5",
    "distill.objective.min_experts=1",
    "coresets.methods=[random]",
]
# For jobs on a cluster, where some seconds pass between what a test waits for and the loss that follows.
LONGEST = [*LONGER, "distill.outer_steps=200"]
# Distillations on two ranks.
RANKS = [
    *TINY,
    "distill.workers=2",
    "distill.outer_steps=24",
    "distill.validate_every=12",
    "distill.checkpoint_every=4",
    "distill.rank_timeout_seconds=10",
    "coresets.methods=[random]",
]
JOB = ("-m", "jobs.run")


def command(store: Path, overrides: list[str], job: Sequence[str] = JOB, more: Sequence[str] = ()) -> list[str]:
    sets = [part for override in overrides for part in ("--set", override)]
    return [sys.executable, *job, "jobs/presets/scenes.yaml", "--store", str(store), *sets, *more]


def start(
    store: Path, overrides: list[str] = LONGER, job: Sequence[str] = JOB, more: Sequence[str] = ()
) -> subprocess.Popen[str]:
    # In its own session, so that exactly its Ray processes can be found and ended.
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(command(store, overrides, job, more), text=True, start_new_session=True, **pipes)


def with_its_data(store: Path, made: Path) -> Path:
    """A new store with the data set and the caption embeddings of a finished one; no test interrupts those units."""
    # The image tower has random weights, so that it needs no units.
    for kind in ("shard_group", "dataset", "embedding_group", "caption_embeddings"):
        shutil.copytree(made / "units" / kind, store / "units" / kind)
    return store


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=HANG_SECONDS)
    return output


def result(store: Path) -> tuple[str, dict]:
    """sha256 of the distilled set's pairs, and the summary."""
    (manifest,) = (store / "distilled").glob("*/manifest.json")
    digest = json.loads(manifest.read_text())["objects"]["pairs.safetensors"]["sha256"]
    return digest, json.loads((store / "report/scenes/summary.json").read_text())


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + HANG_SECONDS
    while not condition():
        assert process.poll() is None, finish(process)
        assert time.monotonic() < deadline
        time.sleep(0.05)


def checkpoints(store: Path, kind: str) -> list[Path]:
    return list((store / "units" / kind).glob("*/checkpoints/*.json"))


def workers_of(process: subprocess.Popen[str], name: str) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if name in " ".join(child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue
    return found
