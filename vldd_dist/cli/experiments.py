"""Commands that run an experiment on this machine or on a cluster, and show its status."""

import os
import shlex
from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer
import yaml

from vldd_dist.cli.console import RunConsole, SafeConsole, nothing_on_stdout, say, say_json, say_on_terminal
from vldd_dist.cli.options import (
    DASHBOARD,
    Description,
    GpuMemory,
    Gpus,
    InProcess,
    Json,
    ListedStore,
    MaxRunning,
    Overrides,
    Plan,
    PlanAsJson,
    StoreUrl,
    StoreUrlOrPlan,
    Track,
    Until,
    WaitHours,
    exit_for_damaged,
    never_run,
)
from vldd_dist.control_characters import one_line
from vldd_dist.errors import ConfigError, StoreError
from vldd_dist.ray_backend.run_options import DEFAULTS, RunOptions, check_store_of_job, check_tracker_of_job, is_job

if TYPE_CHECKING:
    from vldd_dist.artifacts.runs.run_status import RunStatus
    from vldd_dist.config.described import Described
    from vldd_dist.store.store import Store

# Shown for the seconds, on a busy machine a minute, until the plan or the progress of the run appears.
READING = "reading {} and planning ..."


def run(
    config: Description,
    store: StoreUrlOrPlan = None,
    overrides: Overrides = None,
    gpus: Gpus = None,
    gpu_memory: GpuMemory = None,
    plan: Plan = False,
    until: Until = None,
    track: Track = None,
    max_running: MaxRunning = None,
    wait_hours: WaitHours = DEFAULTS.wait_hours,
    as_json: PlanAsJson = False,
    in_process: InProcess = False,
) -> None:
    """Run or resume an experiment, or a study of several variants: what the store already has is not repeated."""
    from vldd_dist.config.loading.descriptions import load_description
    from vldd_dist.config.loading.load import resource_overrides

    options = RunOptions(until, tuple(track or ()), max_running, wait_hours)
    _check_options(store, plan, as_json)
    if in_process:
        _check_in_process(plan, options)
    say_on_terminal(READING.format(config))
    described = load_description(config, [*resource_overrides(gpus, gpu_memory), *(overrides or [])])
    # Not before the line on the terminal, because these imports take seconds.
    from vldd_dist.monitoring.live.tracking import check_tracking
    from vldd_dist.store.store import Store

    console = SafeConsole() if plan else RunConsole()
    for tracker in track or []:
        check_tracking(tracker)
        if is_job() and not plan:
            check_tracker_of_job(tracker)
    _check_tables(described)
    if store is not None:
        _refuse_store_in_data(described, Store(store))
    if plan:
        _plan(described, store, until, as_json, console)
        return
    assert store is not None, "`_check_options` refuses it"
    if in_process:
        from vldd_dist.cli.in_process import run_description_in_process

        run_description_in_process(described, Store(store), until)
        return
    # Ray reads these two when it is imported. We report a lost node in one line, so Ray's thirty lines are skipped, as are its
    # colour codes.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "Raylet is terminated|has been marked dead")
    os.environ.setdefault("RAY_COLOR_PREFIX", "0")
    from vldd_dist.ray_backend.run import run_description

    raise typer.Exit(run_description(described, Store(store), console, options))


def _check_tables(described: "Described") -> None:
    """Check the tables of a study before anything runs. Raises ConfigError."""
    from vldd_dist.config.loading.descriptions import LoadedStudy
    from vldd_dist.monitoring.reports.budgets import check_budgets
    from vldd_dist.monitoring.reports.published_figures import check_published

    if isinstance(described, LoadedStudy):
        check_published(described)
        check_budgets(described)


def _check_options(store: str | None, plan: bool, as_json: bool) -> None:
    """Check the options that depend on each other, before the description is read, which takes seconds. Raises ConfigError."""
    if as_json and not plan:
        raise ConfigError("--json: works with --plan only: for the status of a run, use `vldd status STORE --json`")
    if store is None and not plan:
        raise ConfigError("--store: missing: name a folder or URL for the results, for example --store results")
    if store is not None and not plan and is_job():
        check_store_of_job(store)


def _check_in_process(plan: bool, options: RunOptions) -> None:
    """Raises ConfigError if there is an option that has no effect without Ray."""
    others = {
        "--plan": plan,
        "--track": options.track,
        "--max-running": options.max_running,
        "--wait-hours": options.wait_hours != DEFAULTS.wait_hours,
    }
    if given := [name for name, value in others.items() if value]:
        raise ConfigError(f"--in-process: does not work with {given[0]}: leave one of the two out")
    if is_job():
        raise ConfigError("--in-process: a job runs its units on the cluster: leave it out")


def _refuse_store_in_data(described: "Described", store: "Store") -> None:
    sources = [experiment.data.source for experiment in described.experiments.values()]
    if store.scheme == "file" and any(source.would_include(store.root) for source in sources):
        raise ConfigError(
            f"--store {store.root}: lies in data.source.path, and its files would become data: name another folder"
        )


def _plan(described: "Described", store: str | None, until: str | None, as_json: bool, console: SafeConsole) -> None:
    from vldd_dist.planner.document import plan_document
    from vldd_dist.planner.plan import plan
    from vldd_dist.planner.show_plan import print_plan
    from vldd_dist.store.store import Store

    with nothing_on_stdout(as_json):
        planned = plan(described, None if store is None else Store(store), until)
    if as_json:
        say_json(plan_document(planned))
    else:
        print_plan(planned, console)


def submit(
    config: Description,
    store: StoreUrl,
    overrides: Overrides = None,
    gpus: Gpus = None,
    gpu_memory: GpuMemory = None,
    address: Annotated[str, typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="URL of the cluster's dashboard.")] = DASHBOARD,
    working_dir: Annotated[str, typer.Option(help="The folder that is uploaded to the cluster.")] = ".",
    until: Until = None,
    track: Track = None,
    max_running: MaxRunning = None,
    wait_hours: WaitHours = DEFAULTS.wait_hours,
) -> None:
    """Submit an experiment or a study to a Ray cluster. Submitting again resumes it if its job has ended."""
    from vldd_dist.config.loading.descriptions import load_description
    from vldd_dist.config.loading.load import resource_overrides
    from vldd_dist.monitoring.live.tracking import check_tracking
    from vldd_dist.ray_backend.submitting.submit import next_commands
    from vldd_dist.ray_backend.submitting.submit import submit as submit_job

    for tracker in track or []:
        check_tracking(tracker)
        check_tracker_of_job(tracker)
    if until is not None:
        # Otherwise the job would start, and only its log would name the mistake.
        from vldd_dist.pipeline.stage import stage_until

        stage_until(until)
    more = ["--until", until] if until else []
    more += [part for tracker in track or [] for part in ("--track", tracker)]
    more += ["--max-running", str(max_running)] if max_running else []
    more += ["--wait-hours", f"{wait_hours:g}"] if wait_hours != DEFAULTS.wait_hours else []
    # The user's own come last, so that they take precedence.
    changes = [*resource_overrides(gpus, gpu_memory), *(overrides or [])]
    described = load_description(config, changes)
    _check_tables(described)
    job, running_with = submit_job(described, config, changes, store, address, working_dir, more)
    options = shlex.join(more)
    if running_with is None:
        words = "submitted"
    elif running_with == options:
        words = "is already running"
    else:
        words = (
            f"is already running {f'with {running_with}' if running_with else 'without options'}; "
            f"{options or 'submitting without them'} takes effect only if you stop it (`ray job stop {job}`), or wait for its "
            "end, and submit again"
        )
    say(f"{job} {words}")
    say(next_commands(job, address, store))


def status(
    store: ListedStore,
    address: Annotated[
        str | None, typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="URL of a cluster's dashboard: list its jobs too.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show the status of the experiments in a store, from any machine that can read it; the exit code is 4 if there is none, or
    if one is damaged."""
    from vldd_dist.artifacts.runs.run_status import read_statuses
    from vldd_dist.artifacts.units import is_store
    from vldd_dist.monitoring.live.status import shown_statuses, status_document
    from vldd_dist.monitoring.reports.report_files import PAGE, key_of, report_names
    from vldd_dist.store.store import Store

    opened = Store(store)
    statuses, reports = read_statuses(opened), report_names(opened)
    pages = {name: opened.url_of(key_of(name, PAGE)) for name in reports}
    jobs, no_cluster = _jobs(store, address)
    if not statuses and jobs is None and not no_cluster and not is_store(opened):
        raise never_run(opened.url)
    readable = shown_statuses([status for status in statuses if not isinstance(status, StoreError)])
    damaged = [status for status in statuses if isinstance(status, StoreError)]
    for error in damaged:
        say(f"vldd: {error}", error=True)
    if as_json:
        documents = [status_document(status) | {"report": pages.get(status.experiment)} for status in readable]
        say_json({"store": opened.url, "experiments": documents, "damaged": [str(error) for error in damaged], "jobs": jobs})
    else:
        _print_statuses(readable, pages)
        if not statuses:
            say(f"{opened.url}: no experiment has run in this store")
        if jobs is not None:
            say("\n".join(map(one_line, jobs)) or f"{address} has no job for this store")
    if no_cluster:
        raise no_cluster
    exit_for_damaged(statuses)


def _jobs(store: str, address: str | None) -> tuple[list[str] | None, ConfigError | None]:
    """One line for each of the cluster's jobs that uses this store, or None, and why the cluster cannot be reached, or None.
    The error is returned, because the status in the store is also wanted after the cluster has ended."""
    if not address:
        return None, None
    from vldd_dist.ray_backend.submitting.submit import jobs_of

    try:
        return jobs_of(store, address), None
    except ConfigError as unreachable:
        return None, unreachable


def _print_statuses(statuses: "list[RunStatus]", pages: dict[str, str]) -> None:
    """Print each status and the URL of its report.

    Args:
        pages: name of an experiment or study -> URL of the page of its report, if it has one.
    """
    from vldd_dist.monitoring.live.status import describe_status

    runs_of = Counter(status.experiment for status in statuses)
    for status in statuses:
        say(describe_status(status, several=runs_of[status.experiment] > 1))
        if status.experiment in pages:
            say(f"  report: {one_line(pages[status.experiment])}")


def config(
    config: Description,
    overrides: Overrides = None,
    variant: Annotated[str | None, typer.Option(help="The variant of a study to print; by default all variants.")] = None,
) -> None:
    """Print the resolved description: every key with its value. What it prints for a variant of a study can be run alone."""
    from vldd_dist.config.experiment import Experiment
    from vldd_dist.config.loading.descriptions import load_description

    described = load_description(config, overrides)
    tree = described.resolved()
    if variant is not None:
        if isinstance(described, Experiment):
            raise ConfigError(f"--variant {variant}: {config} is not a study, so it has no variants: leave out --variant")
        if variant not in tree:
            raise ConfigError(f"--variant {variant}: the variants of {config} are {', '.join(tree)}")
        tree = tree[variant]
    say(yaml.safe_dump(tree, sort_keys=False), newline=False)
