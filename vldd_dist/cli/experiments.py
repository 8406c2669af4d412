"""Commands that run an experiment, here or on a cluster, and show its status."""

import os
from typing import TYPE_CHECKING, Annotated

import typer
import yaml

from vldd_dist.cli.console import SafeConsole, nothing_on_stdout, say, say_json
from vldd_dist.cli.options import (
    DASHBOARD,
    Description,
    Gpus,
    Json,
    ListedStore,
    MaxRunning,
    Overrides,
    Plan,
    StoreUrl,
    StoreUrlOrPlan,
    Track,
    Until,
    exit_for_damaged,
)
from vldd_dist.control_characters import one_line
from vldd_dist.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from vldd_dist.config.experiment import Experiment
    from vldd_dist.config.loading.load_study import LoadedStudy


def run(
    config: Description,
    store: StoreUrlOrPlan = None,
    overrides: Overrides = None,
    gpus: Gpus = None,
    plan: Plan = False,
    until: Until = None,
    track: Track = None,
    max_running: MaxRunning = None,
    as_json: Json = False,
) -> None:
    """Run an experiment or a study, or resume one: what is committed in the store is not made again."""
    from vldd_dist.config.loading.load import gpu_overrides
    from vldd_dist.config.loading.load_study import load_description

    _run(
        load_description(config, [*gpu_overrides(gpus), *(overrides or [])]),
        store,
        plan,
        until,
        track or [],
        max_running,
        as_json,
    )


def study(
    config: Description,
    store: StoreUrlOrPlan = None,
    overrides: Overrides = None,
    gpus: Gpus = None,
    plan: Plan = False,
    until: Until = None,
    track: Track = None,
    max_running: MaxRunning = None,
    as_json: Json = False,
) -> None:
    """Run a study: variants of one description, which share what they have in common, side by side in tables."""
    from vldd_dist.config.loading.load import gpu_overrides
    from vldd_dist.config.loading.load_study import load_study

    described = load_study(config, [*gpu_overrides(gpus), *(overrides or [])])
    _run(described, store, plan, until, track or [], max_running, as_json)


def _run(
    description: "Experiment | LoadedStudy",
    store: str | None,
    plan: bool,
    until: str | None,
    track: list[str],
    max_running: int | None,
    as_json: bool,
) -> None:
    # Read when Ray is imported. We report a lost node in one line; Ray's own thirty are skipped, and so are its colour codes.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "Raylet is terminated|has been marked dead")
    os.environ.setdefault("RAY_COLOR_PREFIX", "0")
    from vldd_dist.config.loading.load_study import LoadedStudy
    from vldd_dist.monitoring.reports.published_figures import check_published
    from vldd_dist.ray_backend.run import run_experiment, run_study
    from vldd_dist.store.store import Store

    console = SafeConsole()
    if isinstance(description, LoadedStudy):
        check_published(description.study)
    if plan:
        _plan(description, store, as_json, console)
        return
    if as_json:
        raise ConfigError("--json: is for --plan: a run prints what happens as it goes; `vldd status STORE --json` tells it")
    if store is None:
        raise ConfigError("--store: missing: name a folder or URL that keeps the results, for example --store results")
    if isinstance(description, LoadedStudy):
        raise typer.Exit(run_study(description, Store(store), console, until, track, max_running))
    raise typer.Exit(run_experiment(description, Store(store), console, until, track, max_running))


def _plan(description: "Experiment | LoadedStudy", store: str | None, as_json: bool, console: SafeConsole) -> None:
    from vldd_dist.planner.document import plan_document
    from vldd_dist.planner.plan import plan
    from vldd_dist.planner.show_plan import print_plan
    from vldd_dist.store.store import Store

    with nothing_on_stdout(as_json):
        # Nothing is done in an empty store.
        found = plan(description, Store(store or "memory://plan"))
    if as_json:
        say_json(plan_document(found))
    else:
        print_plan(found, console)


def submit(
    config: Description,
    store: StoreUrl,
    overrides: Overrides = None,
    gpus: Gpus = None,
    address: Annotated[str, typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="URL of the cluster's dashboard.")] = DASHBOARD,
    working_dir: Annotated[str, typer.Option(help="The folder that is uploaded to the cluster.")] = ".",
    track: Track = None,
    max_running: MaxRunning = None,
) -> None:
    """Submit an experiment or a study to a Ray cluster; submitting again resumes it, or finds it running."""
    from vldd_dist.config.loading.load import gpu_overrides
    from vldd_dist.config.loading.load_study import load_description
    from vldd_dist.ray_backend.submitting.submit import next_commands
    from vldd_dist.ray_backend.submitting.submit import submit as submit_job

    more = [part for description in track or [] for part in ("--track", description)]
    more += ["--max-running", str(max_running)] if max_running else []
    # Before the user's own, which are more particular.
    changes = [*gpu_overrides(gpus), *(overrides or [])]
    described = load_description(config, changes)
    job, started = submit_job(described, config, changes, store, address, working_dir, more)
    say(f"{job} {'submitted' if started else 'is already running'}")
    say(next_commands(job, address, store))


def status(
    store: ListedStore,
    address: Annotated[
        str | None, typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="URL of a cluster's dashboard, to list its jobs too.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show the status of the experiments in a store, from any machine that can read it."""
    from vldd_dist.artifacts.run_status import read_statuses
    from vldd_dist.monitoring.live.status import describe_status, status_document
    from vldd_dist.monitoring.reports.report_files import PAGE, key_of, report_names
    from vldd_dist.store.store import Store

    opened = Store(store)
    statuses, reports = read_statuses(opened), report_names(opened)
    pages = {name: opened.url_of(key_of(name, PAGE)) for name in reports}
    jobs: list[str] | None = None
    if address:
        from vldd_dist.ray_backend.submitting.submit import jobs_of

        jobs = jobs_of(store, address)
    whole = [found for found in statuses if not isinstance(found, StoreError)]
    damaged = [found for found in statuses if isinstance(found, StoreError)]
    for error in damaged:
        say(f"vldd: {error}", error=True)
    if as_json:
        known = [status_document(found) | {"report": pages.get(found.experiment)} for found in whole]
        say_json({"store": opened.url, "experiments": known, "damaged": [str(error) for error in damaged], "jobs": jobs})
    else:
        for found in whole:
            say(describe_status(found))
            if found.experiment in pages:
                say(f"  report: {one_line(pages[found.experiment])}")
        if not statuses:
            say(f"{opened.url}: no experiment has run in this store")
        if jobs is not None:
            say("\n".join(map(one_line, jobs)) or f"{address} has no job for this store")
    exit_for_damaged(statuses)


def config(
    config: Description,
    overrides: Overrides = None,
    variant: Annotated[str | None, typer.Option(help="Of a study: the variant to print; else all of them.")] = None,
) -> None:
    """Print the resolved description: every key with its value. A study's variant can be run alone by what is printed."""
    from vldd_dist.config.loading.load_study import LoadedStudy, load_description

    described = load_description(config, overrides)
    tree = described.model_dump(mode="json")
    if variant is not None:
        if not (isinstance(described, LoadedStudy) and variant in tree):
            names = ", ".join(tree) if isinstance(described, LoadedStudy) else "none, for it is no study"
            raise ConfigError(f"--variant {variant}: {config} has the variants: {names}")
        tree = tree[variant]
    say(yaml.safe_dump(tree, sort_keys=False), newline=False)
