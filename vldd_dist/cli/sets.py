"""Commands on distilled sets."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

from vldd_dist.cli.console import SafeConsole, say
from vldd_dist.cli.options import (
    ListedStore,
    SetUrl,
    exit_for_damaged,
)
from vldd_dist.control_characters import escape_controls, one_line
from vldd_dist.errors import StoreError


def fetch(
    url: SetUrl, folder: Annotated[Path, typer.Argument(help="Folder to create; it exists only once the set is complete")]
) -> None:
    """Copy a distilled set and verify it; the same command resumes an interrupted copy."""
    from vldd_dist.distilled_set.fetch import fetch as fetch_set

    with _byte_progress() as progress:
        manifest = fetch_set(url, folder, progress)
    say(f"{manifest.pairs} pairs in {folder}, verified")


def verify(url: SetUrl) -> None:
    """Check every object of a distilled set against its manifest."""
    from vldd_dist.distilled_set.fetch import verify as verify_set

    with _byte_progress() as progress:
        manifest = verify_set(url, progress)
    say(f"{manifest.pairs} pairs, {len(manifest.objects)} objects: all as the manifest says")


def show(url: SetUrl) -> None:
    """Print a distilled set's card and the URL of its preview."""
    from rich.markdown import Markdown

    from vldd_dist.distilled_set.fetch import read_card
    from vldd_dist.store.store import Store

    store = Store(url)
    # Escaped before layout, since a link's target becomes part of a terminal sequence. Targets are shown, not hidden in links.
    card = Markdown(escape_controls(read_card(store)), hyperlinks=False)
    console = SafeConsole()
    console.print(card)
    console.print(f"pictures: {store.url_of('preview.png')}", markup=False, highlight=False, soft_wrap=True)


def list_sets(store: ListedStore) -> None:
    """List the distilled sets a store has published; exit code 4 if one of them is damaged."""
    from vldd_dist.distilled_set.fetch import published_sets
    from vldd_dist.store.store import Store

    opened = Store(store)
    found = published_sets(opened)
    for folder, manifest in found.items():
        if isinstance(manifest, StoreError):
            say(f"vldd: {manifest}", error=True)
        else:
            mean = manifest.mean_recall()
            recall = "not evaluated" if mean is None else f"mean recall {mean:.1f} %"
            say(f"{one_line(opened.url_of(folder))}  {manifest.pairs} pairs  {recall}")
    exit_for_damaged(found.values())


@contextlib.contextmanager
def _byte_progress() -> Iterator[Callable[[int, int], None]]:
    """A bar of bytes with speed and time left on a terminal; nothing elsewhere."""
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True, disable=not SafeConsole(stderr=True).is_terminal) as bar:
        task = bar.add_task("")
        yield lambda done, total: bar.update(task, completed=done, total=total)
