"""Commands that free space in a store and check the machine."""

from dataclasses import asdict
from datetime import timedelta
from typing import Annotated

import typer

from vldd_dist.cli.console import nothing_on_stdout, say, say_json
from vldd_dist.cli.options import Json, ListedStore, hours
from vldd_dist.control_characters import one_line
from vldd_dist.errors import ConfigError

# Number of ended runs that `vldd gc` names.
NAMED_RUNS = 5


def gc(
    store: ListedStore,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CONFIG",
            help="Also list all units that neither this description, nor another --keep, nor the latest run of the same name, "
            "nor a running run needs. Name every description that you still need.",
        ),
    ] = None,
    published: Annotated[
        bool, typer.Option("--published", help="With --keep: also list distilled sets that no kept description publishes.")
    ] = False,
    delete: Annotated[bool, typer.Option("--delete", help="Remove what is listed; otherwise nothing changes.")] = False,
    min_age_hours: Annotated[
        float, typer.Option(min=0, callback=hours, help="Keep younger objects, because running work may need them.")
    ] = 24,
) -> None:
    """List files in a store that are not needed, and remove them if asked to.

    These are files that interrupted attempts left and, with --keep, units that no named description needs.
    """
    from vldd_dist.artifacts.garbage import find_garbage, remove_garbage
    from vldd_dist.store.store import Store

    if published and not keep:
        raise ConfigError("--published: requires --keep CONFIG, which says what is needed")
    opened, min_age, needed = Store(store), timedelta(hours=min_age_hours), None
    if keep:
        from vldd_dist.monitoring.reports.kept_units import needed_by

        needed = needed_by(opened, keep, published=not published)
    say(f"store: {one_line(opened.url)}")
    garbage = find_garbage(opened, min_age, needed)
    for key in garbage.keys:
        say(one_line(key))
    for key in garbage.uploads:
        say(f"{one_line(key)} (an incomplete upload)")
    if delete:
        remove_garbage(opened, garbage, min_age, needed)
    verb = "removed" if delete else "could be removed with --delete"
    uploads = f" and {len(garbage.uploads)} incomplete uploads" if garbage.uploads else ""
    units = f" ({len(garbage.units)} units and sets that are not needed)" if needed else ""
    say(f"{len(garbage.keys)} objects{units}, {garbage.size / 2**20:.1f} MiB{uploads} {verb}")
    if garbage.runs:
        more = f" and {len(garbage.runs) - NAMED_RUNS} more" * (len(garbage.runs) > NAMED_RUNS)
        named = one_line(", ".join(garbage.runs[:NAMED_RUNS]))
        say(
            "The units of these ended runs of a kept name are not kept, because they differ in settings, data or the version "
            f"of vldd_dist: {named}{more}. To keep those of other settings, name their description with --keep."
        )


def doctor(
    store: Annotated[str, typer.Argument(metavar="STORE", help="URL of a store to test, e.g. s3://bucket/prefix.")],
    as_json: Json = False,
) -> None:
    """Check that a run will find what it needs: store, clock, cache, GPUs, libraries, ranks, cluster, versions.

    It leaves nothing behind. The exit code is 4 if a check fails.
    """
    from vldd_dist.ray_backend.doctor import examine

    with nothing_on_stdout(as_json):
        findings = examine(store)
    if as_json:
        say_json({"store": store, "findings": [asdict(finding) for finding in findings]})
    else:
        for finding in findings:
            say(f"{finding.verdict:4}  {finding.subject}: {finding.says}")
    raise typer.Exit(4 if any(finding.verdict == "FAIL" for finding in findings) else 0)
