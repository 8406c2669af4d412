"""Writes a report again from the store alone: a run stores its description beside its report."""

import contextlib
import json

from vldd_dist import strict_json
from vldd_dist.artifacts.keys import run_units_key
from vldd_dist.artifacts.runs.run_status import RunStatus, read_status
from vldd_dist.artifacts.runs.run_units import RunUnits
from vldd_dist.config.described import Described
from vldd_dist.config.loading.load_study import read_description
from vldd_dist.errors import ConfigError, DataError, StoreError
from vldd_dist.monitoring.live.live_report import progress_of
from vldd_dist.monitoring.live.status import DIED, is_outdated
from vldd_dist.monitoring.reports.report_files import DESCRIPTION, PAGE, key_of, report_name
from vldd_dist.monitoring.reports.reporters import reporter_of
from vldd_dist.pipeline.graphs.description import graph_of
from vldd_dist.pipeline.graphs.experiment import Graph
from vldd_dist.pipeline.graphs.study import StudyGraph
from vldd_dist.store.store import MissingObject, Store


def write_description(store: Store, described: Described) -> None:
    """Store the description, which `refresh_report` needs. Raises StoreError."""
    store.write(key_of(described.name, DESCRIPTION), (json.dumps(described.tree(), indent=1) + "\n").encode())


def read_stored_description(store: Store, name: str) -> Described | None:
    """The description that the latest run of this name stored; None if there is none.

    Raises:
        StoreError: it is damaged.
        ConfigError: this version cannot read it.
    """
    key = key_of(name, DESCRIPTION)
    try:
        tree = strict_json.parse(store.read(key))
    except MissingObject:
        return None
    except ValueError as error:
        raise StoreError(f"{store.url_of(key)}: {error}: run the experiment again to have it rewritten") from None
    if not isinstance(tree, dict):
        raise StoreError(f"{store.url_of(key)}: is not a description: run the experiment again to have it rewritten")
    return read_description(tree, store.url_of(key))


def run_of(store: Store, described: Described, graph: Graph | StudyGraph) -> str:
    """The run (`artifacts.runs.run_units`) that stored this description, of which the graph was made again.

    Raises:
        ConfigError: the units have other ids than when the run started, so that the graph does not say what the run committed.
    """
    run = RunUnits.of(described.name, ((unit.kind, unit.id) for unit in graph.units())).run
    if not store.exists(run_units_key(described.name, run)):
        raise ConfigError(
            f"{store.url_of(key_of(described.name, DESCRIPTION))}: here the units of this run have other ids than when it "
            "started, because the data (relative paths start at the current folder) or the version of vldd_dist differ: use "
            "the command in the folder and with the version of the run"
        )
    return run


def refresh_report(store: Store, name: str | None) -> str:
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
