"""Arguments and options that several commands share."""

from collections.abc import Iterable
from typing import Annotated

import typer

from vldd_dist.errors import ConfigError, StoreError

ListedStore = Annotated[str, typer.Argument(metavar="STORE", help="Folder or URL of an experiment's store.")]


# A thousand years, because datetime cannot go back much further.
MAX_HOURS = 24 * 365 * 1000


DASHBOARD = "http://127.0.0.1:8265"


def require_whole(path: str) -> None:
    """Raises ConfigError for a path that begins with `~`: it would be that of a folder with this name."""
    from vldd_dist.store.location import unexpanded_home

    if problem := unexpanded_home(path):
        raise ConfigError(problem)


def complete_preset(incomplete: str) -> list[str]:
    """The presets that begin with what was typed; if there is none, the shell completes the path of a file."""
    from vldd_dist.config.loading.presets import preset_names

    return [name for name in preset_names() if name.startswith(incomplete)]


Description = Annotated[
    str,
    typer.Argument(
        metavar="CONFIG",
        help="YAML description of an experiment or a study, or the name of a preset, e.g. scenes.",
        autocompletion=complete_preset,
    ),
]


Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override one key, e.g. --set 'distill.pairs=[20, 50]'; repeatable."),
]


StoreUrl = Annotated[
    str,
    typer.Option("--store", metavar="URL", help="Where to keep the results: a folder, file://, s3://, gs://, az://."),
]


StoreUrlOrPlan = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="URL",
        help="Where to keep the results: a folder, file://, s3://, gs://, az://. Optional with --plan.",
    ),
]


Plan = Annotated[bool, typer.Option("--plan", help="Print what would run and what it would need, and exit.")]


InProcess = Annotated[
    bool,
    typer.Option(
        "--in-process",
        help="Run the units one after the other in this process, without Ray and without retries, for debuggers and profilers.",
    ),
]


# `pipeline.stage.milestones`, which loads all stages, and with them torch.
MILESTONES = ("data", "experts", "distillations", "publications")


def complete_milestone(incomplete: str) -> list[str]:
    """The stages for `--until` that begin with what was typed."""
    return [name for name in MILESTONES if name.startswith(incomplete)]


Until = Annotated[
    str | None,
    typer.Option(
        "--until",
        metavar="STAGE",
        help=f"Stop after this stage: {', '.join(MILESTONES[:-1])} or {MILESTONES[-1]}. The stages that it needs run too.",
        autocompletion=complete_milestone,
    ),
]


Track = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=TARGET", help="Send curves to an experiment tracker: tensorboard=DIR, wandb=PROJECT, mlflow=URI."
    ),
]


MaxRunning = Annotated[
    int | None, typer.Option(min=1, help="Run at most this many units at once, to leave resources for other runs.")
]


def hours(hours: float) -> float:
    """Check a number of hours. Raises typer.BadParameter."""
    if not 0 <= hours <= MAX_HOURS:
        raise typer.BadParameter(f"{hours:g} is not a number of hours between 0 and {MAX_HOURS:,}")
    return hours


WaitHours = Annotated[
    float,
    typer.Option(
        "--wait-hours",
        metavar="HOURS",
        callback=hours,
        help="How long the run waits for machines while none of its units runs, for example until spot machines return.",
    ),
]


Gpus = Annotated[
    float | None,
    typer.Option(
        "--gpus",
        min=0,
        help="0 to 1: GPU of each worker that runs a network; a fraction lets several workers share one. Sets resources.gpus "
        "of all sections.",
    ),
]


GpuMemory = Annotated[
    float | None,
    typer.Option(
        "--gpu-memory",
        metavar="GIB",
        help="Memory of a worker's GPU; --plan compares its estimates with it. Sets resources.gpu_memory_gib of all sections.",
    ),
]


Json = Annotated[bool, typer.Option("--json", help="Print one JSON document, for programs.")]


PlanAsJson = Annotated[bool, typer.Option("--json", help="With --plan: print one JSON document, for programs.")]


SetUrl = Annotated[str, typer.Argument(metavar="URL", help="A distilled set: a folder, s3://..., or any fsspec URL.")]


def exit_for_damaged(results: Iterable[object]) -> None:
    """End the command with the exit code of a StoreError if one of the results is such an error."""
    if any(isinstance(result, StoreError) for result in results):
        raise typer.Exit(StoreError.exit_code)


def never_run(url: str) -> StoreError:
    """The error for a URL that is not that of a store."""
    mend = "check the URL, name it in `vldd run CONFIG --store ...`, or wait until a job that was just submitted has begun"
    return StoreError(f"{url}: nothing was ever run with this store: {mend}")
