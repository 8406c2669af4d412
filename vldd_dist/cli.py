"""The `vldd` command: thin, every command calls one function of the package."""

import sys
from typing import Annotated

import typer
import yaml
from rich.console import Console

from vldd_dist.errors import VlddError
from vldd_dist.experiment import load_experiment

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

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


@app.command()
def run(
    config: Description,
    store: StoreUrl,
    overrides: Overrides = None,
    plan: Annotated[bool, typer.Option("--plan", help="Print what would be run, and stop.")] = False,
) -> None:
    """Run an experiment, or go on with one: whatever the store holds already is not made again."""
    from vldd_dist.orchestration.run import print_plan, run_experiment
    from vldd_dist.storage.store import Store

    experiment = load_experiment(config, overrides)
    console = Console()
    if plan:
        print_plan(experiment, Store(store), console)
    else:
        raise typer.Exit(run_experiment(experiment, Store(store), console))


@app.command()
def config(config: Description, overrides: Overrides = None) -> None:
    """Print the resolved description: every key with its value."""
    typer.echo(yaml.safe_dump(load_experiment(config, overrides).model_dump(mode="json"), sort_keys=False), nl=False)


def main(arguments: list[str] | None = None) -> None:
    """Run a command; a failure is one sentence on standard error and an exit code (0 done, 2 usage or configuration,
    3 interrupted and resumable, 4 data or storage, 1 anything else)."""
    try:
        app(arguments)
    except VlddError as error:
        typer.echo(f"vldd: {error}", err=True)
        sys.exit(error.exit_code)
