"""Arguments and options that several commands share."""

from collections.abc import Iterable
from typing import Annotated

import typer

from vldd_dist.errors import StoreError

ListedStore = Annotated[str, typer.Argument(metavar="STORE", help="URL of an experiment's store")]


# A thousand years: datetime cannot go back much further.
MAX_HOURS = 24 * 365 * 1000


DASHBOARD = "http://127.0.0.1:8265"


Description = Annotated[
    str, typer.Argument(metavar="CONFIG", help="YAML description of the experiment, or a preset's name, e.g. scenes")
]


Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override one key, e.g. --set 'distill.pairs=[20, 50]'"),
]


StoreUrl = Annotated[
    str,
    typer.Option("--store", metavar="URL", help="Where the experiment keeps its results: a folder, file://, s3://, gs://"),
]


StoreUrlOrPlan = Annotated[
    str | None,
    typer.Option(
        "--store", metavar="URL", help="Where the results are kept: a folder, file://, s3://, gs://. --plan needs none."
    ),
]


Plan = Annotated[bool, typer.Option("--plan", help="Print what would run and what it needs, and stop.")]


Until = Annotated[
    str | None,
    typer.Option("--until", metavar="STAGE", help="The last stage to run, e.g. experts; everything it needs is run too."),
]


Track = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=TARGET", help="Track curves: tensorboard=DIR, wandb=PROJECT, mlflow=URI"),
]


MaxRunning = Annotated[int | None, typer.Option(min=1, help="Most units at once, to leave resources for other runs.")]


Gpus = Annotated[
    float | None,
    typer.Option("--gpus", min=0, help="GPUs of each worker of every stage, as --set STAGE.resources.gpus=N for each."),
]


Json = Annotated[bool, typer.Option("--json", help="Print one JSON document, for programs.")]


SetUrl = Annotated[str, typer.Argument(metavar="URL", help="A distilled set: a folder, s3://..., any fsspec URL")]


def hours(hours: float) -> float:
    if not 0 <= hours <= MAX_HOURS:
        raise typer.BadParameter(f"{hours:g} is not a number of hours between 0 and {MAX_HOURS:,}")
    return hours


def exit_for_damaged(found: Iterable[object]) -> None:
    if any(isinstance(each, StoreError) for each in found):
        raise typer.Exit(StoreError.exit_code)
