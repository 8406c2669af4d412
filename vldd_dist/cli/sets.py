"""Commands on distilled sets."""

import contextlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

from vldd_dist.cli.console import SafeConsole, say, say_json
from vldd_dist.cli.options import (
    Json,
    ListedStore,
    SetUrl,
    exit_for_damaged,
    never_run,
    require_whole,
)
from vldd_dist.control_characters import escape_controls, one_line
from vldd_dist.errors import StoreError

if TYPE_CHECKING:
    from vldd_dist.distilled_set.manifest import DistilledManifest
    from vldd_dist.store.store import Store


def fetch(
    url: SetUrl,
    folder: Annotated[
        str, typer.Argument(metavar="FOLDER", help="Folder to create; it appears only when the set is complete.")
    ],
) -> None:
    """Copy a distilled set and verify it. The same command resumes an interrupted copy."""
    from vldd_dist.distilled_set.transfer.fetch import fetch as fetch_set

    require_whole(folder)
    if "://" in folder:
        raise StoreError(f"{folder}: a set is fetched to a local folder: use `vldd push {url} {folder}`")
    with _byte_progress() as progress:
        manifest = fetch_set(url, Path(folder), progress)
    say(f"{manifest.pairs} pairs in {Path(folder)}, verified")


def verify(url: SetUrl) -> None:
    """Check every object of a distilled set against its manifest."""
    from vldd_dist.distilled_set.reading import verify as verify_set

    with _byte_progress() as progress:
        manifest = verify_set(url, progress)
    say(f"{manifest.pairs} pairs, {len(manifest.objects)} objects: all match the manifest")


def push(
    url: SetUrl,
    target: Annotated[str, typer.Argument(metavar="TARGET", help="hf://datasets/USER/NAME, a folder, s3://..., gs://...")],
    replace: Annotated[bool, typer.Option("--replace", help="Overwrite another set, or write among other files.")] = False,
    public: Annotated[
        bool, typer.Option("--public", help="Make a new data set on the hub public; by default it is private.")
    ] = False,
) -> None:
    """Publish a copy of a distilled set, verified before and after: nobody sees an incomplete set.

    On the hub the set is one commit, made with the token of `hf auth login` or HF_TOKEN. The visibility of an existing data
    set does not change.
    """
    from vldd_dist.distilled_set.transfer.push import push as push_set

    with _byte_progress() as progress:
        manifest = push_set(url, target, replace=replace, public=public, progress=progress)
    say(f"{manifest.pairs} pairs at {one_line(target)}, verified")


def show(url: SetUrl, as_json: Json = False) -> None:
    """Print a distilled set's card and the URL of its preview."""
    from rich.markdown import Markdown

    from vldd_dist.distilled_set.reading import read_card, read_manifest
    from vldd_dist.store.store import Store

    store = Store(url)
    card = read_card(store)
    pictures = store.url_of("preview.png")
    if as_json:
        manifest = read_manifest(store)
        say_json(
            {**_summary(store.url, manifest), "pictures": pictures, "card": card, "manifest": manifest.model_dump(mode="json")}
        )
        return
    # Escape before layout, because a link's target would become part of a terminal sequence. Targets are printed as text.
    console = SafeConsole()
    console.print(Markdown(escape_controls(card), hyperlinks=False))
    console.print(f"pictures: {pictures}", markup=False, highlight=False, soft_wrap=True)


def list_sets(store: ListedStore, as_json: Json = False) -> None:
    """List the distilled sets of a store, the oldest first; the exit code is 4 if there is none, or if one is damaged."""
    from vldd_dist.distilled_set.reading import published_sets
    from vldd_dist.store.store import Store

    opened = Store(store)
    published = published_sets(opened)
    if not published:
        raise _why_none(opened)
    readable = {opened.url_of(key): one for key, (one, _) in published.items() if not isinstance(one, StoreError)}
    damaged = {opened.url_of(key): one for key, (one, _) in published.items() if isinstance(one, StoreError)}
    moments = {opened.url_of(key): moment and moment.astimezone(UTC) for key, (_, moment) in published.items()}
    for error in damaged.values():
        say(f"vldd: {error}", error=True)
    if as_json:
        sets = [
            _summary(url, manifest) | {"published": (moment := moments[url]) and moment.isoformat(timespec="seconds")}
            for url, manifest in readable.items()
        ]
        errors = [{"url": url, "error": str(error)} for url, error in damaged.items()]
        say_json({"store": opened.url, "sets": sets, "damaged": errors})
    else:
        for url, manifest in readable.items():
            say("  ".join([one_line(url), f"{manifest.pairs} pairs", _recall(manifest), *_in_words(moments[url])]))
    exit_for_damaged(damaged.values())


def _recall(manifest: "DistilledManifest") -> str:
    mean, images = manifest.mean_recall(), manifest.test_images()
    if mean is None:
        return "changed after its evaluation" if manifest.changed_after_evaluation() else "not evaluated"
    return f"mean recall {mean:.1f} %" + ("" if images is None else f" on {images:,} test images")


def _in_words(moment: datetime | None) -> list[str]:
    return [] if moment is None else [moment.strftime("published %Y-%m-%d %H:%M UTC")]


def _summary(url: str, manifest: "DistilledManifest") -> dict[str, Any]:
    return {
        "url": url,
        "pairs": manifest.pairs,
        "mean_recall": manifest.mean_recall(),
        "changed_after_evaluation": manifest.changed_after_evaluation(),
        "test_images": manifest.test_images(),
    }


def _why_none(store: "Store") -> StoreError:
    """The error that says why the store has no published set."""
    from vldd_dist.artifacts.units import is_store
    from vldd_dist.distilled_set.manifest import MANIFEST

    if is_store(store):
        return StoreError(f"{store.url}: no distilled set is published here yet: `vldd status {store.url}` shows how far it is")
    if store.exists(MANIFEST):
        return StoreError(f"{store.url}: is a distilled set, not a store of them: `vldd show {store.url}` prints its card")
    return never_run(store.url)


@contextlib.contextmanager
def _byte_progress() -> Iterator[Callable[[int, int], None]]:
    """On a terminal, show a progress bar of bytes with speed and time left. Yields a function that takes (done, total)."""
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True, disable=not SafeConsole(stderr=True).is_terminal) as bar:
        task = bar.add_task("")
        yield lambda done, total: bar.update(task, completed=done, total=total)
