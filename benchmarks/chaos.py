"""The main job on S3 while its driver and its workers are killed at random: the distilled sets must be the same.

    python -m benchmarks.chaos --kills 20

The job runs once undisturbed, and then again in another store, where at random times SIGKILL is sent either to the driver
with all its Ray processes or to one busy worker; a killed driver is started again by the same command. `--quick` uses a tiny
experiment. The last line is JSON: kills, same_digest, units_redone (units that were started more than once).
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import psutil

from benchmarks._measure import print_json
from vldd_dist.distilled_set.reading import published_sets, read_manifest
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny import TINY
from vldd_dist.testing.servers.s3_server import S3Server, s3_server

PRESET = "jobs/presets/scenes.yaml"
QUICK = [*TINY, "data.train_images=160", "experts.epochs=6", "distill.outer_steps=60", "distill.checkpoint_every=5"]
BUCKET = "chaos"
DRIVER_SHARE = 0.4
# Processes of Ray itself. They are not killed, because a node without its agents ends, and with it the driver on one machine.
NOT_OURS = ("IDLE", "_QueueActor", "Agent")
LONGEST_ATTEMPT_SECONDS = 3600
RESUMABLE = 3


@dataclass
class Job:
    """The job's command with a store of its own, started as often as necessary.

    Attributes:
        log: the lines of its output.
        starts: label of a unit -> number of times that it was started.
    """

    name: str
    folder: Path
    environment: dict[str, str]
    overrides: list[str]
    log: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"s3://{BUCKET}/{self.name}"

    @property
    def starts(self) -> Counter[str]:
        return Counter(line.removesuffix(": started") for line in self.log if line.endswith(": started"))

    @contextmanager
    def running(self) -> Iterator[subprocess.Popen[bytes]]:
        """One start of the job. All its processes are killed at the end of the `with` block."""
        sets = [part for override in self.overrides for part in ("--set", override)]
        output = self.folder / f"{self.name}.log"
        with output.open("wb") as file:
            process = self._start([sys.executable, "-m", "jobs.run", PRESET, "--store", self.url, *sets], file)
            try:
                yield process
            finally:
                kill_all(process)
        self.log += output.read_text(errors="replace").splitlines()

    def _start(self, command: list[str], file: IO[bytes]) -> subprocess.Popen[bytes]:
        environment = os.environ | self.environment | {"VLDD_CACHE_DIR": str(self.folder / f"{self.name}-cache")}
        # In a session of its own, so that a Ctrl-C here does not reach it.
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment, start_new_session=True)

    def digests(self) -> dict[str, str]:
        """Folder of each published set -> sha256 of its pairs."""
        store = Store(self.url)
        manifests = {folder: read_manifest(Store(store.url_of(folder))) for folder in published_sets(store)}
        return {folder: manifest.objects["pairs.safetensors"].sha256 for folder, manifest in manifests.items()}


def kill_all(process: subprocess.Popen[bytes]) -> None:
    """Send SIGKILL to the driver and to all Ray processes that it started."""
    try:
        family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    except psutil.NoSuchProcess:
        family = []
    for member in family:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue
    process.wait()


def busy_workers(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Ray workers that run a task or an actor of this package, after which Ray names the process."""
    workers = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            title = " ".join(child.cmdline())
        except psutil.Error:
            continue
        if title.startswith("ray::") and not any(name in title for name in NOT_OURS):
            workers.append(child)
    return workers


def run_undisturbed(job: Job) -> float:
    """Run the job without kills. Returns its duration in seconds."""
    started = time.monotonic()
    with job.running() as process:
        finished = process.wait(LONGEST_ATTEMPT_SECONDS)
    if finished:
        raise SystemExit("\n".join(job.log[-20:]) + f"\nthe undisturbed job ended with {finished}")
    return time.monotonic() - started


def run_disturbed(job: Job, kills: int, pause: tuple[float, float], dice: random.Random) -> int:
    """Run the job to its end with at most `kills` kills, `pause` (shortest, longest) seconds apart. Returns their number."""
    done = 0
    while True:
        with job.running() as process:
            while process.poll() is None:
                try:
                    process.wait(dice.uniform(*pause) if done < kills else LONGEST_ATTEMPT_SECONDS)
                except subprocess.TimeoutExpired:
                    victims = busy_workers(process)
                    done += 1
                    if not victims or dice.random() < DRIVER_SHARE:
                        print(f"kill {done}: the driver and all its processes", flush=True)
                        break
                    victim = dice.choice(victims)
                    print(f"kill {done}: {' '.join(victim.cmdline()).strip()}", flush=True)
                    victim.send_signal(signal.SIGKILL)
            else:
                if process.returncode == 0:
                    return done
                if process.returncode == RESUMABLE:
                    continue
                raise SystemExit(
                    f"the job ended with {process.returncode}: {(job.folder / f'{job.name}.log').read_text()[-2000:]}"
                )


def chaos(server: S3Server, kills: int, quick: bool, seed: int) -> dict[str, float]:
    """Run the job repeatedly, each time with a new store, until all kills are done."""
    os.environ.update(server.environment)
    Store(f"s3://{BUCKET}/x").fs.mkdir(BUCKET)
    dice, pause = random.Random(seed), (3.0, 14.0) if quick else (5.0, 40.0)
    with tempfile.TemporaryDirectory(prefix="vldd-chaos-") as folder:

        def job(name: str) -> Job:
            return Job(name, Path(folder), server.environment, QUICK if quick else [])

        undisturbed = job("undisturbed")
        seconds = run_undisturbed(undisturbed)
        expected = undisturbed.digests()
        print(f"undisturbed: {seconds:.0f} s, {json.dumps(expected)}", flush=True)
        done, redone, same = 0, 0, True
        while done < kills:
            disturbed = job(f"disturbed-{done}")
            started = time.monotonic()
            done += run_disturbed(disturbed, kills - done, pause, dice)
            actual = disturbed.digests()
            redone += sum(count > 1 for count in disturbed.starts.values())
            same = same and actual == expected
            verdict = "the same sets" if actual == expected else f"OTHER sets: {json.dumps(actual)}"
            print(f"disturbed: {time.monotonic() - started:.0f} s, {done} of {kills} kills so far, {verdict}", flush=True)
    return {"kills": done, "same_digest": same, "units_redone": redone}


def main() -> None:
    parser = argparse.ArgumentParser(description="The main job on S3 under random kills.")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="seed of the times and the victims")
    parser.add_argument("--quick", action="store_true", help="a tiny experiment and at most 5 kills: a few minutes")
    arguments = parser.parse_args()
    kills = min(arguments.kills, 5) if arguments.quick else arguments.kills
    with s3_server() as server:
        figures = chaos(server, kills, arguments.quick, arguments.seed)
    print_json(figures)


if __name__ == "__main__":
    main()
