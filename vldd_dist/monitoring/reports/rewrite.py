"""Writes a report again from the store alone, for which a run stores its description (`stored_description`)."""

import contextlib

from vldd_dist.artifacts.runs.run_status import RunStatus, read_status
from vldd_dist.errors import ConfigError, DataError, StoreError
from vldd_dist.monitoring.live.live_report import progress_of
from vldd_dist.monitoring.live.status import DIED, is_outdated
from vldd_dist.monitoring.reports.report_files import DESCRIPTION, PAGE, key_of, report_name
from vldd_dist.monitoring.reports.reporters import reporter_of
from vldd_dist.monitoring.reports.stored_description import read_stored_description, run_of
from vldd_dist.pipeline.graphs.description import graph_of
from vldd_dist.store.store import Store


def rewrite_report(store: Store, name: str | None) -> str:
    """Write the report of what is committed now. Returns the URL of its page.

    Args:
        name: of the experiment or study; may be None if the store has only one.

    Raises:
        StoreError: nothing ran in this store, or it cannot be read.
        ConfigError: the store has several and none is named, the description is of another version, or the units of the run
            have other ids here: the report would be empty.
        DataError: this machine cannot read the data, which determine the ids of the units.
    """
    name = report_name(store, name, DESCRIPTION)
    page = store.url_of(key_of(name, PAGE))
    try:
        described = read_stored_description(store, name)
        assert described is not None, "it has just been listed"
        graph = graph_of(described)
        reporter = reporter_of(described, graph, store)
        # The status of this run, not of another one of the same name.
        run = run_of(store, described, graph)
    except (ConfigError, DataError) as error:
        raise type(error)(f"{error} (the report that the run last wrote is {page})") from None
    # A report without a status shows only what is committed.
    progress = None
    with contextlib.suppress(StoreError):
        progress = progress_of(_ended_if_outdated(read_status(store, name, run)))
    reporter.write(progress)
    return page


def _ended_if_outdated(status: RunStatus) -> RunStatus:
    """The status; of a run whose driver has died, as that of an interrupted run."""
    if not is_outdated(status):
        return status
    return status.model_copy(update={"state": "stopped", "notices": [*status.notices, DIED]})
