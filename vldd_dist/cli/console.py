"""Printing. This is the one place where untrusted text is made safe for a terminal."""

import contextlib
import json
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from vldd_dist.control_characters import escape_controls

FILE_WIDTH = 140


class SafeConsole(Console):
    """A rich console that does not interpret markup in the text that it prints, and escapes control characters in it. The
    control sequences of its own styles and cursor movements are kept."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)
        if not self.is_terminal and "COLUMNS" not in os.environ:
            # A file or a job's log has no width of its own: use one that is wide enough for a table of recalls.
            self.width = FILE_WIDTH

    def render_str(self, text: str, **options: Any) -> Text:
        # Escape before layout, because an escape is wider than the character that it stands for.
        return super().render_str(escape_controls(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=escape_controls(segment.text))


class RunConsole(SafeConsole):
    """The console of a run. After the reader of its output has ended (`tee`, by the same Ctrl-C), it prints nothing more, and
    the run goes on or stops in order."""

    def on_broken_pipe(self) -> None:
        with contextlib.suppress(SystemExit):
            super().on_broken_pipe()


def say(text: str, error: bool = False, newline: bool = True) -> None:
    """Print plain text."""
    typer.echo(escape_controls(text), err=error, nl=newline)


def say_on_terminal(text: str) -> None:
    """Print a line on standard error if it is a terminal: what the user waits for."""
    if SafeConsole(stderr=True).is_terminal:
        say(text, error=True)


def say_json(document: dict[str, Any]) -> None:
    """Print one JSON document (RFC 8259) in ASCII, with all other characters escaped."""
    text = json.dumps(document, indent=2, allow_nan=False)
    # DEL is the one control character that `json.dumps` does not escape.
    typer.echo(text.replace("\x7f", "\\u007f"))


@contextlib.contextmanager
def nothing_on_stdout(wanted: bool) -> Iterator[None]:
    """If `wanted`, redirect standard output to standard error within the `with` block, including what libraries and child
    processes write."""
    if not wanted:
        yield
        return
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
