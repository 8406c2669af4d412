"""The `vldd` command: thin, every command calls one function of the package."""

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer
import yaml
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

from vldd_dist.console import SafeConsole, log_warnings, say
from vldd_dist.control_characters import escape_controls, one_line
from vldd_dist.errors import StoreError, VlddError
from vldd_dist.experiment import load_experiment
from vldd_dist.orchestration.units import Until

# Without markup: a usage error quotes what was typed, and `[/b]` in a path is a path.
app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

Description = Annotated[
    str, typer.Argument(metavar="CONFIG", help="YAML description of the experiment, e.g. jobs/presets/scenes.yaml")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override one key, e.g. --set 'distill.pairs=[20, 50]'"),
]
StoreUrl = Annotated[
    str,
    typer.Option("--store", metavar="URL", help="Where the experiment keeps all it makes: a folder, file://, s3://, gs://"),
]


def _hours(hours: float) -> float:
    if not 0 <= hours <= MOST_HOURS:
        raise typer.BadParameter(f"{hours:g} is not a number of hours between 0 and {MOST_HOURS:,}")
    return hours


def _exit_for_damaged(found: Iterable[object]) -> None:
    if any(isinstance(each, StoreError) for each in found):
        raise typer.Exit(StoreError.exit_code)


# A thousand years: dates cannot go back much further.
MOST_HOURS = 24 * 365 * 1000
DASHBOARD = "http://127.0.0.1:8265"
Track = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=TARGET", help="Draw curves: tensorboard=DIR, wandb=PROJECT, mlflow=URI"),
]
MaxRunning = Annotated[int | None, typer.Option(min=1, help="Units at once, to leave room for other runs on the cluster.")]
SetUrl = Annotated[str, typer.Argument(metavar="URL", help="A distilled set: a folder, s3://..., any fsspec URL")]


@app.command()
def run(
    config: Description,
    store: StoreUrl,
    overrides: Overrides = None,
    plan: Annotated[bool, typer.Option("--plan", help="Print what would be run and what it takes, and stop.")] = False,
    until: Annotated[Until, typer.Option("--until", help="The last stage to run, with all it needs.")] = "publications",
    track: Track = None,
    max_running: MaxRunning = None,
) -> None:
    """Run an experiment, or go on with one: whatever the store holds already is not made again."""
    # Read when Ray is imported. A lost node is one line of ours; Ray's account of it is thirty, in colour wherever it goes.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "Raylet is terminated|has been marked dead")
    os.environ.setdefault("RAY_COLOR_PREFIX", "0")
    from vldd_dist.orchestration.run import run_experiment
    from vldd_dist.orchestration.show_plan import print_plan
    from vldd_dist.storage.store import Store

    experiment = load_experiment(config, overrides)
    console = SafeConsole()
    if plan:
        print_plan(experiment, Store(store), console)
    else:
        raise typer.Exit(run_experiment(experiment, Store(store), console, until, track or [], max_running))


@app.command()
def submit(
    config: Description,
    store: StoreUrl,
    overrides: Overrides = None,
    address: Annotated[str, typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="The cluster's dashboard.")] = DASHBOARD,
    working_dir: Annotated[str, typer.Option(help="What the cluster gets of this machine.")] = ".",
    track: Track = None,
    max_running: MaxRunning = None,
) -> None:
    """Submit an experiment to a Ray cluster; submitting again goes on with it, or finds it running."""
    from vldd_dist.orchestration.submit import next_commands
    from vldd_dist.orchestration.submit import submit as submit_job

    more = [part for description in track or [] for part in ("--track", description)]
    more += ["--max-running", str(max_running)] if max_running else []
    experiment = load_experiment(config, overrides)
    job, started = submit_job(experiment, config, overrides or [], store, address, working_dir, more)
    say(f"{job} {'submitted' if started else 'runs already'}")
    say(next_commands(job, address, store))


@app.command()
def status(
    store: Annotated[str, typer.Argument(metavar="STORE", help="URL of an experiment's store")],
    address: Annotated[
        str | None, typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="A cluster's dashboard, to ask it for its jobs too.")
    ] = None,
) -> None:
    """Say where the experiments of a store stand, from anywhere that reads it."""
    from vldd_dist.orchestration.status import describe_status
    from vldd_dist.storage.status import read_statuses
    from vldd_dist.storage.store import Store

    opened = Store(store)
    statuses = read_statuses(opened)
    for found in statuses:
        if isinstance(found, StoreError):
            say(f"vldd: {found}", error=True)
        else:
            say(describe_status(found))
    if not statuses:
        say(f"{opened.url}: no experiment has run here")
    if address:
        from vldd_dist.orchestration.submit import jobs_of

        say("\n".join(map(one_line, jobs_of(store, address))) or f"no job of {address} is for this store")
    _exit_for_damaged(statuses)


@app.command()
def config(config: Description, overrides: Overrides = None) -> None:
    """Print the resolved description: every key with its value."""
    say(yaml.safe_dump(load_experiment(config, overrides).model_dump(mode="json"), sort_keys=False), newline=False)


@app.command()
def fetch(
    url: SetUrl, folder: Annotated[Path, typer.Argument(help="Folder to make; it is there only when the set is whole")]
) -> None:
    """Copy a distilled set, verified; an interrupted fetch goes on where it was."""
    from vldd_dist.storage.fetch import fetch as fetch_set

    with _byte_progress() as progress:
        manifest = fetch_set(url, folder, progress)
    say(f"{manifest.pairs} pairs in {folder}, verified")


@app.command()
def verify(url: SetUrl) -> None:
    """Check every object of a distilled set against its manifest."""
    from vldd_dist.storage.fetch import verify as verify_set

    with _byte_progress() as progress:
        manifest = verify_set(url, progress)
    say(f"{manifest.pairs} pairs, {len(manifest.objects)} objects: all as the manifest says")


@app.command()
def show(url: SetUrl) -> None:
    """Print a distilled set's card and where its pictures are."""
    from rich.markdown import Markdown

    from vldd_dist.storage.fetch import read_card
    from vldd_dist.storage.store import Store

    store = Store(url)
    # Escaped before it is laid out, for a link's target becomes part of a terminal's sequence; and shown, not hidden behind it.
    card = Markdown(escape_controls(read_card(store)), hyperlinks=False)
    console = SafeConsole()
    console.print(card)
    console.print(f"pictures: {store.url_of('preview.png')}", markup=False, highlight=False, soft_wrap=True)


@app.command("list")
def list_sets(store: Annotated[str, typer.Argument(metavar="STORE", help="URL of an experiment's store")]) -> None:
    """List the distilled sets a store has published; exit code 4 if one of them is damaged."""
    from vldd_dist.storage.fetch import published_sets
    from vldd_dist.storage.store import Store

    opened = Store(store)
    found = published_sets(opened)
    for folder, manifest in found.items():
        if isinstance(manifest, StoreError):
            say(f"vldd: {manifest}", error=True)
        else:
            mean = manifest.mean_recall()
            recall = "not judged" if mean is None else f"mean recall {mean:.1f} %"
            say(f"{one_line(opened.url_of(folder))}  {manifest.pairs} pairs  {recall}")
    _exit_for_damaged(found.values())


@app.command()
def gc(
    store: Annotated[str, typer.Argument(metavar="STORE", help="URL of an experiment's store")],
    delete: Annotated[bool, typer.Option("--delete", help="Remove; without it nothing changes.")] = False,
    min_age_hours: Annotated[
        float, typer.Option(min=0, callback=_hours, help="Younger objects may belong to running work.")
    ] = 24,
) -> None:
    """Find what dead attempts left behind, and remove it when told to."""
    from vldd_dist.storage.garbage import find_garbage, remove_garbage
    from vldd_dist.storage.store import Store

    opened, min_age = Store(store), timedelta(hours=min_age_hours)
    say(f"store: {one_line(opened.url)}")
    garbage = find_garbage(opened, min_age)
    for key in garbage.keys:
        say(one_line(key))
    for key in garbage.uploads:
        say(f"{one_line(key)} (an upload that nobody ended)")
    if delete:
        remove_garbage(opened, garbage, min_age)
    verb = "removed" if delete else "could be removed with --delete"
    uploads = f" and {len(garbage.uploads)} unended uploads" if garbage.uploads else ""
    say(f"{len(garbage.keys)} objects, {garbage.size / 2**20:.1f} MiB{uploads} {verb}")


@app.command()
def doctor(
    store: Annotated[str, typer.Argument(metavar="STORE", help="URL of a store to try, e.g. s3://bucket/prefix")],
) -> None:
    """Try what a run needs: the store, GPUs, DeepSpeed, versions. Leaves nothing behind; exit code 4 if something is amiss."""
    from vldd_dist.doctor import examine

    findings = examine(store)
    for finding in findings:
        say(f"{finding.verdict:4}  {finding.subject}: {finding.says}")
    raise typer.Exit(4 if any(finding.verdict == "FAIL" for finding in findings) else 0)


@contextlib.contextmanager
def _byte_progress() -> Iterator[Callable[[int, int], None]]:
    """A bar of bytes with speed and time left on a terminal; nothing elsewhere."""
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True, disable=not SafeConsole(stderr=True).is_terminal) as bar:
        task = bar.add_task("")
        yield lambda done, total: bar.update(task, completed=done, total=total)


def main(arguments: list[str] | None = None) -> None:
    """Run a command; a failure is one sentence on standard error and an exit code (0 done, 2 usage or configuration,
    3 interrupted and resumable, 4 data or storage, 1 anything else)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal of another encoding shows an escape instead of ending the command.
            stream.reconfigure(errors="backslashreplace")
    log_warnings()
    try:
        app(arguments)
    except VlddError as error:
        say(f"vldd: {error}", error=True)
        sys.exit(error.exit_code)
