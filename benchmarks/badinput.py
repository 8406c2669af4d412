"""Bad input at the command line: generated descriptions, overrides, sets, statuses, stores, places, sources of data.

    python -m benchmarks.badinput [--quick] [--only KIND] [--seed N]

Each case runs in its own folder, beside a user's files that are compared before and after. Most cases run in worker processes
by the function behind the `vldd` command, with a time limit; a sample runs as separate processes with a standard output that
accepts only ASCII. The import of data is the dataset stage of `vldd run`, in the worker and without Ray.

These count as faults: a traceback; no end within the time limit; an exit code that the kind of case does not allow (2 for a
description or a command line, 4 for data and stores, 0 if the input may be valid by chance); a user's file that is lost,
changed or created outside the paths that the command was given; a control character in the output.

The last line is JSON: tried, tracebacks, hangs, wrong_exit_codes, lost_or_changed_files, control_characters, as_processes.
"""

import argparse
import os
import time
from collections import Counter

from rich.table import Table

from benchmarks._measure import print_json
from vldd_dist.cli.console import SafeConsole
from vldd_dist.testing.bad_input.kinds import KINDS
from vldd_dist.testing.bad_input.run import FAULTS, Outcome
from vldd_dist.testing.bad_input.workers import try_all

QUICK_CASES, FULL_CASES = 600, 3000


def show(outcomes: list[Outcome], seconds: float, console: SafeConsole) -> None:
    table = Table(title=f"{len(outcomes)} cases in {seconds:.0f} s")
    for column in ("kind", "tried", "exit 0", "exit 2", "exit 4", "faults"):
        table.add_column(column, justify="left" if column == "kind" else "right")
    for kind in KINDS:
        of_kind = [outcome for outcome in outcomes if outcome.kind == kind]
        codes = Counter(outcome.code for outcome in of_kind)
        if of_kind:
            counts = [len(of_kind), codes[0], codes[2], codes[4], sum(bool(outcome.faults) for outcome in of_kind)]
            table.add_row(kind.replace("_", " "), *map(str, counts))
    console.print(table)
    for outcome in outcomes:
        if outcome.faults:
            console.print(f"{', '.join(outcome.faults)}: --only {outcome.kind}, seed {outcome.seed}, exit {outcome.code}:")
            console.print(
                f"  vldd {' '.join(map(repr, outcome.arguments))[:400]}\n  {outcome.output.strip()[-800:]}", soft_wrap=True
            )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_CASES} cases instead of {FULL_CASES}")
    parser.add_argument("--cases", type=int)
    parser.add_argument("--only", help="one kind of case")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    # Without libraries' warnings in the workers' output, and without more threads than two workers can use.
    os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", PYTHONWARNINGS="ignore")
    started = time.monotonic()
    cases = options.cases or (QUICK_CASES if options.quick else FULL_CASES)
    outcomes = try_all(cases, options.only, options.seed)
    show(outcomes, time.monotonic() - started, SafeConsole())
    faults = Counter(fault for outcome in outcomes for fault in outcome.faults)
    print_json(
        {"tried": len(outcomes)}
        | {fault: faults[fault] for fault in FAULTS}
        | {"as_processes": sum(outcome.as_process for outcome in outcomes)}
    )


if __name__ == "__main__":
    main()
