"""Running one case of bad input, and checking its output, its exit code and the files that it leaves."""

import contextlib
import io
import os
import subprocess
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from random import Random

from vldd_dist.testing.bad_input.case import Case
from vldd_dist.testing.bad_input.cases.values import SEQUENCES
from vldd_dist.testing.bad_input.kinds import KINDS
from vldd_dist.testing.bad_input.user_files import differences, files_of, is_free, lay_out_user_files

# Above the minute after which a server that does not answer is given up.
PROCESS_LIMIT_SECONDS = 180
FAULTS = ("tracebacks", "hangs", "wrong_exit_codes", "lost_or_changed_files", "control_characters")
VLDD = [sys.executable, "-c", "from vldd_dist.cli.main import main; main()"]


@dataclass(frozen=True)
class Outcome:
    """The outcome of one case: what is wrong with it (empty: nothing), the exit code, and the end of the output."""

    kind: str
    seed: int
    arguments: list[str]
    faults: tuple[str, ...]
    code: int | None
    output: str
    as_process: bool


def run_case(kind: str, seed: int, as_process: bool, root: Path) -> Outcome:
    """Set up a case below an empty folder, run it there, and check what it left."""
    work = lay_out_user_files(root)
    with contextlib.chdir(work):
        case = KINDS[kind][1](Random(f"{kind} {seed}"))
        as_process = as_process and not case.imports and all(is_an_argument(part) for part in case.arguments)
        before = files_of(root)
        code, output = in_process_of_its_own(case.arguments) if as_process else in_this_process(case)
    faults = []
    if "Traceback (most recent call last)" in output:
        faults.append("tracebacks")
    elif code is None:
        faults.append("hangs")
    elif code not in case.codes:
        faults.append("wrong_exit_codes")
    if set(output) & set(SEQUENCES) & set("\x1b\x07\x9b\u202e\x08"):
        faults.append("control_characters")
    if any(not is_free(path, case) for path in differences(before, files_of(root))):
        faults.append("lost_or_changed_files")
    return Outcome(kind, seed, case.arguments, tuple(faults), code, output[-2000:], as_process)


def is_an_argument(text: str) -> bool:
    """Whether an operating system accepts a text as an argument: it has no NUL and can be encoded."""
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return "\0" not in text and len(text) < 100_000


def in_process_of_its_own(arguments: list[str]) -> tuple[int | None, str]:
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    process = subprocess.Popen([*VLDD, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment)
    try:
        output, _ = process.communicate(timeout=PROCESS_LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        return None, process.communicate()[0].decode(errors="replace")
    return process.returncode, output.decode(errors="replace")


def in_this_process(case: Case) -> tuple[int, str]:
    output = io.StringIO()
    code: int | str | None = 0
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            import_data(*case.arguments) if case.imports else vldd(case.arguments)
        except SystemExit as ended:
            code = ended.code
        except BaseException:
            output.write(traceback.format_exc())
            code = 1
    return code if isinstance(code, int) else 0 if code is None else 1, output.getvalue()


def vldd(arguments: list[str]) -> None:
    from vldd_dist.cli.main import main

    main(arguments)


def import_data(config: str, store: str, *overrides: str) -> None:
    """Run the first stages of `vldd run`, and fail as the command does."""
    from vldd_dist.cli.console import say
    from vldd_dist.config.loading.load import load_experiment
    from vldd_dist.errors import VlddError
    from vldd_dist.pipeline.execute import execute
    from vldd_dist.pipeline.graphs.experiment import Graph
    from vldd_dist.pipeline.work_unit import in_dependency_order
    from vldd_dist.store.store import Store

    try:
        unit = Graph(load_experiment(config, list(overrides))).unit("dataset")
        for needed in in_dependency_order([unit]):
            execute(needed.order(), Store(store), lambda event: None)
    except VlddError as error:
        say(f"vldd: {error}", error=True)
        sys.exit(error.exit_code)
