"""`vldd run --in-process`: the missing units one after the other in this process, without Ray."""

import time
from collections.abc import Callable
from dataclasses import asdict

from vldd_dist.cli.console import say
from vldd_dist.config.described import Described
from vldd_dist.errors import InterruptedRun
from vldd_dist.events import Notice, Progress, SendReport, UnitReport
from vldd_dist.monitoring.live.descriptions import describe_figures
from vldd_dist.pipeline.committed import missing_units
from vldd_dist.pipeline.graphs.description import graph_of
from vldd_dist.pipeline.in_process import run_in_process
from vldd_dist.pipeline.revisions import check_revisions
from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.ray_backend.gpus import compare_gpus
from vldd_dist.store.store import Store

# Time between two lines on the progress of a unit. Lines, and no live table, because a debugger uses the terminal too.
PROGRESS_SECONDS = 10.0


def run_description_in_process(described: Described, store: Store, until: str | None) -> None:
    """Run the units that are not committed yet, with a line for each, and one every ten seconds on its progress.

    Raises:
        VlddError: the run cannot be planned, or a unit fails with a sentence for the user. Other errors of a unit are raised
            as they are, for a debugger.
        InterruptedRun: Ctrl-C; the same command resumes the run.
    """
    units = graph_of(described).units(until)
    check_revisions(units)
    missing = missing_units(store, units)
    compare_gpus(missing)
    try:
        run_in_process(missing, store, _numbered(len(missing)))
    except KeyboardInterrupt:
        raise InterruptedRun("interrupted: what was committed is in the store; run the same command to resume") from None
    found = len(units) - len(missing)
    say(f"{len(missing):,} units done, {found:,} found; the same command without --in-process writes the report")


def _numbered(count: int) -> Callable[[WorkUnit], SendReport]:
    """A `report_of` that prints which of `count` units begins, and returns a function that prints the unit's reports."""
    begun = 0

    def report_of(unit: WorkUnit) -> SendReport:
        nonlocal begun
        begun += 1
        say(f"[{begun}/{count}] {unit.label}")
        said_at = time.monotonic()

        def report(event: UnitReport) -> None:
            nonlocal said_at
            if isinstance(event, Notice):
                say(f"{unit.label}: {event.text}")
            elif isinstance(event, Progress) and time.monotonic() - said_at >= PROGRESS_SECONDS:
                said_at = time.monotonic()
                say(f"{unit.label}: {describe_figures(asdict(event))}")

        return report

    return report_of
