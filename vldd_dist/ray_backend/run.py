"""The driver: makes the graph, runs the units that are missing, and writes the report."""

import math
import signal
from collections.abc import Iterator

from rich.console import Console

from vldd_dist.artifacts.runs.run_status import read_status, read_statuses
from vldd_dist.artifacts.runs.run_units import RunUnits, write_run_units
from vldd_dist.artifacts.units import UnitReader, mark_store
from vldd_dist.config.described import Described
from vldd_dist.errors import ConfigError, InterruptedRun, StoreError
from vldd_dist.events import RunNotice
from vldd_dist.monitoring.live.console import make_view
from vldd_dist.monitoring.live.live_report import LiveReport, progress_of
from vldd_dist.monitoring.live.run_state import RunState, View
from vldd_dist.monitoring.live.status import StatusWriter, is_outdated
from vldd_dist.monitoring.live.tracking import make_tracking
from vldd_dist.monitoring.reports.reporters import reporter_of
from vldd_dist.monitoring.reports.stored_description import write_description
from vldd_dist.pipeline.advice import advice_on
from vldd_dist.pipeline.committed import missing_units
from vldd_dist.pipeline.graphs.description import graph_of
from vldd_dist.pipeline.revisions import check_revisions
from vldd_dist.pipeline.stages.publication import PublicationFacts
from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.ray_backend.executor import connected_executor
from vldd_dist.ray_backend.gpus import compare_gpus
from vldd_dist.ray_backend.joining import cluster_address
from vldd_dist.ray_backend.metrics import RayMetrics
from vldd_dist.ray_backend.run_options import DEFAULTS, RunOptions
from vldd_dist.ray_backend.signals import CaughtSignals
from vldd_dist.reporting.tables.renderers.terminal import TerminalTable
from vldd_dist.scheduler.controller import Controller
from vldd_dist.scheduler.executor import Executor
from vldd_dist.scheduler.limits import RunLimits
from vldd_dist.scheduler.result import RunResult
from vldd_dist.sharding.engines.sharded_model import require_engine
from vldd_dist.store.store import Store

# The largest number of distilled sets whose URLs a run prints at its end; a study may have hundreds.
MOST_SETS = 12


def run_description(described: Described, store: Store, console: Console, options: RunOptions = DEFAULTS) -> int:
    """Run the units of an experiment or a study that are not committed yet, then write and print the report. Units that several
    variants of a study share are run once.

    Returns:
        The exit code: 0, or that of the first failed unit. Units that do not need a failed unit were run.

    Raises:
        VlddError: the run cannot be planned, or the store cannot be used.
        InterruptedRun: Ctrl-C, SIGTERM, or loss of all machines; the same command resumes the run.
    """
    if store.url.startswith("memory://"):
        raise ConfigError(
            "--store memory://: such a store exists in one process only, and workers are other processes: use file:// or s3://"
        )
    graph = graph_of(described)
    units = graph.units(options.until)
    check_revisions(units)
    store.check_writable()
    _refuse_what_cannot_run(units, store)
    for note in advice_on(described):
        console.print(note, style="yellow", markup=False, highlight=False, soft_wrap=True)
    name = described.name
    record = RunUnits.of(name, ((unit.kind, unit.id) for unit in graph.units()))
    trackers: list[View] = [make_tracking(tracker, name) for tracker in options.track]
    reporter, status = reporter_of(described, graph, store), StatusWriter(store, name, record.run)
    # Views end in this order: the status must end before the report, which reads it.
    state = RunState([make_view(console), status, LiveReport(reporter, status), RayMetrics(name), *trackers])
    # Without the mark, workers take the store's folder for one that is not mounted on their machine.
    mark_store(store)
    # The record comes before the status, because `vldd gc` looks it up for every run that is said to be running.
    write_run_units(store, record)
    write_description(store, described)
    limits = RunLimits(
        max_running=options.max_running,
        stall_timeout_seconds=_stall_timeout(described),
        capacity_timeout_seconds=3600 * options.wait_hours,
    )
    result = _run_units(units, store, state, status, limits, console)
    for unit, outcome in result.failed:
        console.print(f"failed: {unit.label}: {outcome.cause}", style="bold red", markup=False, soft_wrap=True)
    if result.not_run:
        console.print(result.not_run, style="red")
    for table in reporter.write(progress_of(status.now(state, status.ended_as)), result.failed):
        console.print(TerminalTable(table))
    for line in _set_lines(units, result, store):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(f"report: {store.url_of(reporter.page)}", markup=False, highlight=False, soft_wrap=True)
    return result.exit_code


def _set_lines(units: list[WorkUnit], result: RunResult, store: Store) -> Iterator[str]:
    """A line with the URL of each distilled set that this run has published or found; names of sets do not tell runs apart."""
    done = {unit.id for unit in (*result.found, *result.ran)}
    publications = [unit for unit in units if unit.kind == "publication" and unit.id in done]
    for unit in publications[:MOST_SETS]:
        yield f"set: {store.url_of(UnitReader(store, unit.kind, unit.id).facts_as(PublicationFacts).folder)}"
    if len(publications) > MOST_SETS:
        yield f"further sets: {len(publications) - MOST_SETS:,} (`vldd list {store.url}` prints all)"


def _stall_timeout(described: Described) -> float | None:
    """The longest stall timeout of the experiments; None if one has none."""
    longest = max(experiment.stall_timeout_seconds or math.inf for experiment in described.experiments.values())
    return None if longest == math.inf else longest


def _refuse_what_cannot_run(units: list[WorkUnit], store: Store) -> None:
    """Check when the run starts that the engines of sharded units can be imported and, on this machine alone, that it has the
    GPUs that units ask for, because the first such unit may run hours later. Committed units need neither.

    Raises:
        ConfigError: an engine or a GPU is lacking.
    """
    on_cluster = cluster_address() is not None
    if on_cluster and all(unit.sharding == "none" for unit in units):
        return
    missing = missing_units(store, units)
    for sharding in sorted({unit.sharding for unit in missing} - {"none"}):
        require_engine(sharding)
    if not on_cluster:
        compare_gpus(missing)


def _run_units(
    units: list[WorkUnit], store: Store, state: RunState, status: StatusWriter, limits: RunLimits, console: Console
) -> RunResult:
    """Run the units, and set the final state of the status."""

    def say_that_it_stops() -> None:
        # At once, because a start of Ray is not interrupted, and workers that stop store checkpoints.
        console.print("stopping: what was committed stays in the store", style="yellow", highlight=False)

    with CaughtSignals(signal.SIGINT, signal.SIGTERM, say=say_that_it_stops) as signals:
        # If the store is away, each request before the first unit and after the last may take a minute.
        signals.end_process = True

        def make_executor() -> Executor:
            address = cluster_address()
            told = f"joining the cluster at {address} ..." if address else "starting Ray on this machine ..."
            console.print(told, style="dim", markup=False, highlight=False)
            # Ray's processes, and units that store checkpoints, are ended by `RayExecutor.close`.
            signals.end_process = False
            executor = connected_executor(store, lambda text: state.event(RunNotice(text)), signals.again)
            # Ray has installed handlers of its own, which end the process.
            signals.install()
            return executor

        try:
            _notice_other_driver(store, status, state)
            status.announce(state)
            _notice_other_runs(store, status, state)
            result = Controller(units, store, make_executor, state, limits, should_stop=signals.any).run()
            status.ended_as = "failed" if result.failed else "done"
            return result
        except ConfigError as error:
            status.ended_as = "failed"
            status.notices.append(str(error))
            raise
        except KeyboardInterrupt:
            raise InterruptedRun("interrupted: what was committed is in the store; run the same command to resume") from None
        finally:
            signals.end_process = True
            if signals.any():
                console.print("writing the last status; Ctrl-C again: at once", style="yellow", highlight=False)
            state.end()


def _notice_other_driver(store: Store, status: StatusWriter, state: RunState) -> None:
    """Say that another driver of the same run may be running. To be called before the first status is written, which replaces
    that of the other driver."""
    try:
        other = read_status(store, status.experiment, status.run)
    except StoreError:
        return
    if other.state == "running" and not is_outdated(other):
        text = (
            f"another driver of this run wrote its status {max(0, other.age_seconds):.0f} s ago: if it has not ended since, "
            "both compute the same units: stop one of them"
        )
        state.event(RunNotice(text))


def _notice_other_runs(store: Store, status: StatusWriter, state: RunState) -> None:
    """Say that another run of the same name is running. Of two that start at once, the later one sees the other's status."""
    others = [
        other.run
        for other in read_statuses(store, status.experiment)
        if not isinstance(other, StoreError) and other.run != status.run and other.state == "running" and not is_outdated(other)
    ]
    if others:
        text = (
            f"another run of {status.experiment} with other settings ({', '.join(others)}) is running in this store, and the "
            "report shows the one that wrote last: give one a name of its own with --set name=... (a study: `name` in its file)"
        )
        state.event(RunNotice(text))
