"""Commands that run an experiment, here or on a cluster, and show its status."""

import os
from typing import Annotated

import typer
import yaml

from vldd_dist.cli.console import SafeConsole, say
from vldd_dist.cli.options import DASHBOARD, Description, ListedStore, MaxRunning, Overrides, StoreUrl, Track, exit_for_damaged
from vldd_dist.config.load import load_experiment
from vldd_dist.control_characters import one_line
from vldd_dist.errors import StoreError


def run(
    config: Description,
    store: StoreUrl,
    overrides: Overrides = None,
    plan: Annotated[bool, typer.Option("--plan", help="Print what would run and what it needs, and stop.")] = False,
    until: Annotated[
        str | None,
        typer.Option("--until", metavar="STAGE", help="The last stage to run, e.g. experts; everything it needs is run too."),
    ] = None,
    track: Track = None,
    max_running: MaxRunning = None,
) -> None:
    """Run an experiment, or resume one: what is committed in the store is not made again."""
    # Read when Ray is imported. We report a lost node in one line; Ray's own thirty are skipped, and so are its colour codes.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "Raylet is terminated|has been marked dead")
    os.environ.setdefault("RAY_COLOR_PREFIX", "0")
    from vldd_dist.planner.show_plan import print_plan
    from vldd_dist.ray_backend.run import run_experiment
    from vldd_dist.store.store import Store

    experiment = load_experiment(config, overrides)
    console = SafeConsole()
    if plan:
        print_plan(experiment, Store(store), console)
    else:
        raise typer.Exit(run_experiment(experiment, Store(store), console, until, track or [], max_running))


def submit(
    config: Description,
    store: StoreUrl,
    overrides: Overrides = None,
    address: Annotated[str, typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="URL of the cluster's dashboard.")] = DASHBOARD,
    working_dir: Annotated[str, typer.Option(help="The folder that is uploaded to the cluster.")] = ".",
    track: Track = None,
    max_running: MaxRunning = None,
) -> None:
    """Submit an experiment to a Ray cluster; submitting again resumes it, or finds it running."""
    from vldd_dist.ray_backend.submit import next_commands
    from vldd_dist.ray_backend.submit import submit as submit_job

    more = [part for description in track or [] for part in ("--track", description)]
    more += ["--max-running", str(max_running)] if max_running else []
    experiment = load_experiment(config, overrides)
    job, started = submit_job(experiment, config, overrides or [], store, address, working_dir, more)
    say(f"{job} {'submitted' if started else 'is already running'}")
    say(next_commands(job, address, store))


def status(
    store: ListedStore,
    address: Annotated[
        str | None, typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="URL of a cluster's dashboard, to list its jobs too.")
    ] = None,
) -> None:
    """Show the status of the experiments in a store, from any machine that can read it."""
    from vldd_dist.artifacts.run_status import read_statuses
    from vldd_dist.monitoring.status import describe_status
    from vldd_dist.store.store import Store

    opened = Store(store)
    statuses = read_statuses(opened)
    for found in statuses:
        if isinstance(found, StoreError):
            say(f"vldd: {found}", error=True)
        else:
            say(describe_status(found))
    if not statuses:
        say(f"{opened.url}: no experiment has run in this store")
    if address:
        from vldd_dist.ray_backend.submit import jobs_of

        say("\n".join(map(one_line, jobs_of(store, address))) or f"{address} has no job for this store")
    exit_for_damaged(statuses)


def config(config: Description, overrides: Overrides = None) -> None:
    """Print the resolved description: every key with its value."""
    say(yaml.safe_dump(load_experiment(config, overrides).model_dump(mode="json"), sort_keys=False), newline=False)
