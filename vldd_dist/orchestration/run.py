"""The main job: plan, run what is missing, report."""

import signal
from typing import Any

from rich.console import Console

from vldd_dist.errors import ConfigError, InterruptedRun
from vldd_dist.experiment import Experiment
from vldd_dist.orchestration.coordinator import Coordinator, RunResult
from vldd_dist.orchestration.executor import Executor, RayExecutor
from vldd_dist.orchestration.plan import Plan, make_plan
from vldd_dist.orchestration.progress import ProgressBoard, make_view
from vldd_dist.storage.store import Store

STOPPING_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def run_experiment(experiment: Experiment, store: Store, console: Console) -> int:
    """Run everything of the experiment that the store does not hold yet, then write and print the report.

    Returns:
        The exit code: 0, or that of the first failed unit (the others were run).

    Raises:
        VlddError: the experiment cannot be planned, or the store not be used.
        InterruptedRun: Ctrl-C or SIGTERM; the same command goes on.
    """
    if store.url.startswith("memory://"):
        raise ConfigError("--store memory://: lives in one process, the workers are others; use file:// or s3://")
    plan = make_plan(experiment)
    store.check_writable()
    result = _run_units(plan, store, console)
    for unit, outcome in result.failed:
        console.print(f"failed: {unit.label}: {outcome.cause}", style="bold red", markup=False, soft_wrap=True)
    if result.blocked:
        console.print(f"not run, for they need a failed one: {len(result.blocked)} units", style="red")
    # Here: a run with nothing to report need not load the plotting libraries.
    from vldd_dist.orchestration.report import write_report

    write_report(experiment, plan, store, result, console)
    return result.exit_code


def _run_units(plan: Plan, store: Store, console: Console) -> RunResult:
    view = make_view(console)

    stops: list[int] = []

    def handle_signals() -> list[Any]:
        # The loop asks for the flag: an exception raised out of a handler can be lost in the callback it interrupts.
        return [signal.signal(number, lambda received, frame: stops.append(received)) for number in STOPPING_SIGNALS]

    def make_executor() -> Executor:
        executor = RayExecutor(store)
        # Again, for Ray brings a handler of its own, which ends the process.
        handle_signals()
        return executor

    previous = handle_signals()
    try:
        return Coordinator(plan.units(), store, make_executor, ProgressBoard(view), should_stop=lambda: bool(stops)).run()
    except KeyboardInterrupt:
        raise InterruptedRun("interrupted: what was committed is in the store; the same command goes on from there") from None
    finally:
        view.end()
        for number, handler in zip(STOPPING_SIGNALS, previous, strict=True):
            signal.signal(number, handler)
