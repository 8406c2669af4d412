"""The `vldd` program: its commands, and how an error ends them."""

import atexit
import gc as garbage
import io
import logging
import re
import sys
from collections.abc import Callable
from importlib import metadata
from typing import Annotated

import typer

from vldd_dist.cli.console import say
from vldd_dist.cli.data import data, init
from vldd_dist.cli.examples import epilog
from vldd_dist.cli.experiments import config, run, status, submit
from vldd_dist.cli.sets import fetch, list_sets, push, show, verify
from vldd_dist.cli.stores import doctor, gc
from vldd_dist.cli.tables import published, report, table
from vldd_dist.errors import VlddError
from vldd_dist.extras import extra_of, how_to_add
from vldd_dist.logs import is_json, start_logging

# The end of `vldd --help`, which is part of the site's page of commands too.
EXIT_CODES = (
    "Exit codes: 0 done; 2 the description or the command line is wrong; 3 interrupted (the same command resumes the run); "
    "4 a problem of the data or the store; 1 any other failure."
)
# Without markup, because usage errors quote what was typed, and `[/b]` in a path must not be read as markup.
app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None, epilog=EXIT_CODES)

COMMANDS: dict[str, Callable[..., None]] = {
    "init": init,
    "data": data,
    "run": run,
    "submit": submit,
    "status": status,
    "report": report,
    "table": table,
    "published": published,
    "config": config,
    "fetch": fetch,
    "verify": verify,
    "push": push,
    "show": show,
    "list": list_sets,
    "gc": gc,
    "doctor": doctor,
}
for name, command in COMMANDS.items():
    # The list of commands shows the first clause of the docstring.
    beginning = re.split(r"[:;.]", command.__doc__ or "")[0]
    app.command(name, short_help=beginning, epilog=epilog(name))(command)


def _print_version(asked: bool) -> None:
    if asked:
        say(f"vldd {metadata.version('vldd_dist')}")
        raise typer.Exit


@app.callback()
def vldd(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Distil a set of images and captions into a few pairs, on one machine or a Ray cluster."""


def main(arguments: list[str] | None = None) -> None:
    """Run a command. A failure prints one sentence on standard error and sets the exit code (`EXIT_CODES`)."""
    # Otherwise the interpreter searches all modules for garbage when it exits, which takes a second if torch is loaded.
    atexit.register(garbage.freeze)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A character that the terminal's encoding lacks is shown as an escape instead of raising.
            stream.reconfigure(errors="backslashreplace")
    try:
        # The view of a run prints its events. With VLDD_LOG=json, events are log lines of level INFO.
        start_logging(logging.INFO if is_json() else logging.WARNING)
        app(arguments)
    except VlddError as error:
        say(f"vldd: {error}", error=True)
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        # Without an extra, a command that needs it ends here. Any other missing module is a mistake of ours or of a plug-in.
        if (extra := extra_of(error.name)) is None:
            raise
        say(f"vldd: the module {error.name} is not installed, which this command needs: {how_to_add(extra)}", error=True)
        sys.exit(1)
