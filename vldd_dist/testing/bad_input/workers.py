"""Many cases of bad input, in worker processes that are replaced when a case does not end."""

import contextlib
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from queue import Empty, SimpleQueue
from random import Random

from vldd_dist.testing.bad_input.kinds import KINDS
from vldd_dist.testing.bad_input.run import PROCESS_LIMIT_SECONDS, Outcome, run_case

WORKERS = 2
# For a case in the worker itself; beyond the minute after which a server that does not answer is given up.
LIMIT_SECONDS = 100
# Of a hundred cases, so many as processes of their own: each takes seconds to start.
PROCESS_SHARE = 3


def serve(connection: Connection) -> None:
    """Run the cases that come, one after another."""
    os.environ["VLDD_CACHE_DIR"] = tempfile.mkdtemp(prefix="badinput-cache-")
    while (asked := connection.recv()) is not None:
        kind, seed, as_process, root = asked
        connection.send(run_case(kind, seed, as_process, root))
    shutil.rmtree(os.environ["VLDD_CACHE_DIR"], ignore_errors=True)


class Worker:
    """A process for cases, replaced when one of them does not end."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=serve, args=(other,))
        self.process.start()
        other.close()

    def run(self, kind: str, seed: int, as_process: bool) -> Outcome:
        with tempfile.TemporaryDirectory(prefix="badinput-") as folder:
            self.connection.send((kind, seed, as_process, Path(folder)))
            try:
                if self.connection.poll(PROCESS_LIMIT_SECONDS + LIMIT_SECONDS if as_process else LIMIT_SECONDS):
                    return self.connection.recv()
                fault, said = "hangs", ""
            except EOFError:
                fault, said = "tracebacks", "the process ended (out of memory, or a crash in a library)"
            self.process.kill()
            self.process.join()
            self._start()
            return Outcome(kind, seed, [], (fault,), None, said, as_process)

    def close(self) -> None:
        self.connection.send(None)
        self.process.join()


def drawn(cases: int, only: str | None, seed: int) -> Iterator[tuple[str, int, bool]]:
    """(kind, seed, whether as a process of its own): each kind by its share, in a mixed order."""
    shares = {kind: share for kind, (share, _) in KINDS.items() if only in (None, kind)}
    if not shares:
        raise SystemExit(f"--only {only}: no such kind; there are {', '.join(KINDS)}")
    whole = sum(shares.values())
    wanted = [
        (kind, seed * 1_000_000 + number) for kind, share in shares.items() for number in range(max(1, cases * share // whole))
    ]
    Random(seed).shuffle(wanted)
    for position, (kind, of_case) in enumerate(wanted):
        yield kind, of_case, position * PROCESS_SHARE % 100 < PROCESS_SHARE


def try_all(cases: int, only: str | None = None, seed: int = 0) -> list[Outcome]:
    asked: SimpleQueue[tuple[str, int, bool]] = SimpleQueue()
    for each in drawn(cases, only, seed):
        asked.put(each)

    def work() -> list[Outcome]:
        worker, outcomes = Worker(), []
        with contextlib.suppress(Empty):
            while True:
                outcomes.append(worker.run(*asked.get_nowait()))
        worker.close()
        return outcomes

    with ThreadPoolExecutor(WORKERS) as pool:
        return [outcome for future in [pool.submit(work) for _ in range(WORKERS)] for outcome in future.result()]
