"""Bad input at the command line: generated descriptions, overrides, sets, statuses, stores, places, sources of data.

    python -m benchmarks.badinput [--quick] [--only KIND] [--seed N]

Each case runs in a folder of its own, beside files of a user that are compared before and after. Most run in worker processes
through the function behind the `vldd` command, with a limit of time each; a sample of them as processes of their own, on a
standard output that takes ASCII only. The import of data is the dataset stage of `vldd run`, in the worker and without Ray.

What is counted against a case: a traceback; no end within the limit; another exit code than the kind of case allows (2 for a
description or a command line, 4 for data and stores, 0 where the input may be sound by chance); a file of the user's lost or
changed, or made outside the places that the command was given; a control character in the output.

The last line is JSON: tried, tracebacks, hangs, wrong_exit_codes, lost_or_changed_files, control_characters, as_processes.
"""

import argparse
import contextlib
import io
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from multiprocessing.connection import Connection
from pathlib import Path
from queue import Empty, SimpleQueue
from random import Random

from rich.table import Table

from benchmarks._bad_cases import KINDS, Case
from benchmarks._bad_values import SEQUENCES
from benchmarks._measure import print_json
from vldd_dist.cli.console import SafeConsole

WORKERS = 2
# Beyond the minute after which a server that does not answer is given up.
LIMIT_SECONDS, PROCESS_LIMIT_SECONDS = 100, 180
QUICK_CASES, FULL_CASES = 600, 3000
# Of a hundred cases, so many as processes of their own: each takes seconds to start.
PROCESS_SHARE = 3
FAULTS = ("tracebacks", "hangs", "wrong_exit_codes", "lost_or_changed_files", "control_characters")
VLDD = [sys.executable, "-c", "from vldd_dist.cli.main import main; main()"]


@dataclass(frozen=True)
class Outcome:
    """Of one case: what is wrong with it (none: nothing), the exit code, and the last of what was said."""

    kind: str
    seed: int
    arguments: list[str]
    faults: tuple[str, ...]
    code: int | None
    said: str
    as_process: bool


def run_case(kind: str, seed: int, as_process: bool, root: Path) -> Outcome:
    """Lay a case out below an empty folder, run it there, and look at what it left."""
    work = lay_out_user_files(root)
    with contextlib.chdir(work):
        case = KINDS[kind][1](Random(f"{kind} {seed}"))
        as_process = as_process and not case.imports and all(is_an_argument(part) for part in case.arguments)
        before = files_of(root)
        code, said = in_process_of_its_own(case.arguments) if as_process else in_this_process(case)
    faults = []
    if "Traceback (most recent call last)" in said:
        faults.append("tracebacks")
    elif code is None:
        faults.append("hangs")
    elif code not in case.codes:
        faults.append("wrong_exit_codes")
    if set(said) & set(SEQUENCES) & set("\x1b\x07\x9b\u202e\x08"):
        faults.append("control_characters")
    if any(not is_free(path, case) for path in differences(before, files_of(root))):
        faults.append("lost_or_changed_files")
    return Outcome(kind, seed, case.arguments, tuple(faults), code, said[-2000:], as_process)


def lay_out_user_files(root: Path) -> Path:
    """A user's files in and around the working directory, some with names that commands use. Returns the directory."""
    mine = {
        "neighbour/secret.txt": b"not for others",
        "neighbour/secret.png": b"\x89PNG mine",
        "work/notes.txt": b"years of work",
        "work/paper.partial/chapter.tex": b"more years",
        "work/units/kind/id/attempt/object": b"mine",
        "work/blobs/ab/object": b"mine",
        "work/distilled/set/object": b"mine",
        "work/status.json": b"mine",
    }
    for name, data in mine.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root / "work"


def files_of(root: Path) -> dict[str, str]:
    """Path below the root -> what lies there: a digest, a link's target, or that it is a folder or a pipe."""
    found = {}
    for path in root.rglob("*"):
        name = path.relative_to(root).as_posix()
        if path.is_symlink():
            found[name] = f"link {os.readlink(path)}"
        elif path.is_file():
            found[name] = sha256(path.read_bytes()).hexdigest()
        else:
            found[name] = "folder" if path.is_dir() else "special"
    return found


def differences(before: dict[str, str], after: dict[str, str]) -> list[str]:
    return [path for path in before.keys() | after.keys() if before.get(path) != after.get(path)]


def is_free(path: str, case: Case) -> bool:
    """Whether the command was told to work there."""
    return any(path == f"work/{place}" or path.startswith(f"work/{place}/") for place in case.may_change)


def is_an_argument(text: str) -> bool:
    """Whether an operating system passes it on: no NUL, nothing that is no text."""
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return "\0" not in text and len(text) < 100_000


def in_process_of_its_own(arguments: list[str]) -> tuple[int | None, str]:
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    process = subprocess.Popen([*VLDD, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment)
    try:
        said, _ = process.communicate(timeout=PROCESS_LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        return None, process.communicate()[0].decode(errors="replace")
    return process.returncode, said.decode(errors="replace")


def in_this_process(case: Case) -> tuple[int, str]:
    said = io.StringIO()
    code: int | str | None = 0
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            import_data(*case.arguments) if case.imports else vldd(case.arguments)
        except SystemExit as ended:
            code = ended.code
        except BaseException:
            said.write(traceback.format_exc())
            code = 1
    return code if isinstance(code, int) else 0 if code is None else 1, said.getvalue()


def vldd(arguments: list[str]) -> None:
    from vldd_dist.cli.main import main

    main(arguments)


def import_data(config: str, store: str, *overrides: str) -> None:
    """The first stage of `vldd run`, with the command's way to fail."""
    from vldd_dist.cli.console import say
    from vldd_dist.config.load import load_experiment
    from vldd_dist.errors import VlddError
    from vldd_dist.pipeline.execute import execute
    from vldd_dist.pipeline.graph import make_graph
    from vldd_dist.store.store import Store

    try:
        unit = make_graph(load_experiment(config, list(overrides))).unit("dataset")
        execute(unit.order(), Store(store), lambda event: None)
    except VlddError as error:
        say(f"vldd: {error}", error=True)
        sys.exit(error.exit_code)


def serve(connection: Connection) -> None:
    """Run the cases that come, one after another."""
    os.environ["VLDD_CACHE_DIR"] = tempfile.mkdtemp(prefix="badinput-cache-")
    while (asked := connection.recv()) is not None:
        kind, seed, as_process, root = asked
        connection.send(run_case(kind, seed, as_process, root))
    shutil.rmtree(os.environ["VLDD_CACHE_DIR"], ignore_errors=True)


class Worker:
    """A process for cases, made anew when one of them does not end."""

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


def show(outcomes: list[Outcome], seconds: float, console: SafeConsole) -> None:
    table = Table(title=f"{len(outcomes)} cases in {seconds:.0f} s")
    for column in ("kind", "tried", "exit 0", "exit 2", "exit 4", "faults"):
        table.add_column(column, justify="left" if column == "kind" else "right")
    for kind in KINDS:
        own = [outcome for outcome in outcomes if outcome.kind == kind]
        codes = Counter(outcome.code for outcome in own)
        if own:
            counts = [len(own), codes[0], codes[2], codes[4], sum(bool(outcome.faults) for outcome in own)]
            table.add_row(kind.replace("_", " "), *map(str, counts))
    console.print(table)
    for outcome in outcomes:
        if outcome.faults:
            console.print(f"{', '.join(outcome.faults)}: --only {outcome.kind}, seed {outcome.seed}, exit {outcome.code}:")
            console.print(
                f"  vldd {' '.join(map(repr, outcome.arguments))[:400]}\n  {outcome.said.strip()[-800:]}", soft_wrap=True
            )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_CASES} cases instead of {FULL_CASES}")
    parser.add_argument("--cases", type=int)
    parser.add_argument("--only", help="one kind of case")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    # Warnings of libraries that the workers import, and threads that would share two cores.
    os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", PYTHONWARNINGS="ignore")
    began = time.monotonic()
    cases = options.cases or (QUICK_CASES if options.quick else FULL_CASES)
    outcomes = try_all(cases, options.only, options.seed)
    show(outcomes, time.monotonic() - began, SafeConsole())
    faults = Counter(fault for outcome in outcomes for fault in outcome.faults)
    print_json(
        {"tried": len(outcomes)}
        | {fault: faults[fault] for fault in FAULTS}
        | {"as_processes": sum(outcome.as_process for outcome in outcomes)}
    )


if __name__ == "__main__":
    main()
