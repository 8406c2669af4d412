"""Running many cases of bad input in worker processes, which are replaced if a case does not end."""

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
# Time limit of a case in the worker itself. It is above the minute after which a server that does not answer is given up.
LIMIT_SECONDS = 100
# Of a hundred cases, this many run as processes of their own: only a few, because each takes seconds to start.
PROCESS_SHARE = 3


def serve(connection: Connection) -> None:
    """Run the cases that are received, one after another, until None is received."""
    os.environ["VLDD_CACHE_DIR"] = tempfile.mkdtemp(prefix="badinput-cache-")
    while (request := connection.recv()) is not None:
        kind, seed, as_process, root = request
        connection.send(run_case(kind, seed, as_process, root))
    shutil.rmtree(os.environ["VLDD_CACHE_DIR"], ignore_errors=True)


class Worker:
    """A process that runs cases, and is replaced if one of them does not end."""

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
                fault, output = "hangs", ""
            except EOFError:
                fault, output = "tracebacks", "the process ended (out of memory, or a crash in a library)"
            self.process.kill()
            self.process.join()
            self._start()
            return Outcome(kind, seed, [], (fault,), None, output, as_process)

    def close(self) -> None:
        self.connection.send(None)
        self.process.join()


def drawn(cases: int, only: str | None, seed: int) -> Iterator[tuple[str, int, bool]]:
    """(kind, seed, whether it runs as a process of its own) of each case: kinds by their shares, in a random order."""
    shares = {kind: share for kind, (share, _) in KINDS.items() if only in (None, kind)}
    if not shares:
        raise SystemExit(f"--only {only}: no such kind; there are {', '.join(KINDS)}")
    total = sum(shares.values())
    chosen: list[tuple[str, int]] = []
    for kind, share in shares.items():
        chosen += [(kind, seed * 1_000_000 + number) for number in range(max(1, cases * share // total))]
    Random(seed).shuffle(chosen)
    for position, (kind, case_seed) in enumerate(chosen):
        yield kind, case_seed, position * PROCESS_SHARE % 100 < PROCESS_SHARE


def try_all(cases: int, only: str | None = None, seed: int = 0) -> list[Outcome]:
    """The outcomes of about `cases` cases, of all kinds or only of one."""
    queue: SimpleQueue[tuple[str, int, bool]] = SimpleQueue()
    for case in drawn(cases, only, seed):
        queue.put(case)

    def work() -> list[Outcome]:
        worker, outcomes = Worker(), []
        with contextlib.suppress(Empty):
            while True:
                outcomes.append(worker.run(*queue.get_nowait()))
        worker.close()
        return outcomes

    with ThreadPoolExecutor(WORKERS) as pool:
        return [outcome for future in [pool.submit(work) for _ in range(WORKERS)] for outcome in future.result()]
