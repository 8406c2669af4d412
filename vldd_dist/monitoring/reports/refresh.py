"""A report made again from the store alone: the run leaves its description beside it."""

import json

from vldd_dist import strict_json
from vldd_dist.artifacts.run_status import read_statuses
from vldd_dist.config.experiment import Experiment
from vldd_dist.config.loading.load_study import LoadedStudy, description_tree, read_description
from vldd_dist.errors import ConfigError, DataError, StoreError
from vldd_dist.monitoring.live.live_report import Reports, progress_of
from vldd_dist.monitoring.reports.report_files import DESCRIPTION, PAGE, key_of, report_name
from vldd_dist.pipeline.graphs.experiment import make_graph
from vldd_dist.pipeline.graphs.study import StudyGraph
from vldd_dist.store.store import MissingObject, Store


def write_description(store: Store, described: Experiment | LoadedStudy) -> None:
    """Leave what `refresh_report` needs. Raises StoreError."""
    store.write(key_of(described.name, DESCRIPTION), (json.dumps(description_tree(described), indent=1) + "\n").encode())


def read_stored_description(store: Store, name: str) -> Experiment | LoadedStudy | None:
    """What `write_description` left of the latest run of this name; none where there is nothing.

    Raises:
        StoreError: it is damaged.
        ConfigError: this version reads no such description.
    """
    key = key_of(name, DESCRIPTION)
    try:
        tree = strict_json.parse(store.read(key))
    except MissingObject:
        return None
    except ValueError as error:
        raise StoreError(f"{store.url_of(key)}: {error}: run the experiment again to have it rewritten") from None
    if not isinstance(tree, dict):
        raise StoreError(f"{store.url_of(key)}: holds no description: run the experiment again to have it rewritten")
    return read_description(tree, store.url_of(key))


def refresh_report(store: Store, name: str | None) -> str:
    """Write the report of what is committed now; returns the URL of its page.

    Args:
        name: of the experiment or study; None where the store has one.

    Raises:
        StoreError: nothing ran in this store, or it cannot be read.
        ConfigError: there are several and none is named; or the description is of another version.
        DataError: the data, by which units are named, are not to be had from here.
    """
    name = report_name(store, name, DESCRIPTION)
    page = store.url_of(key_of(name, PAGE))
    try:
        described = read_stored_description(store, name)
        assert described is not None, "it has just been listed"
        reporter = _reporter(described, store)
    except (ConfigError, DataError) as error:
        raise type(error)(f"{error} (the report as its run last wrote it is {page})") from None
    for status in read_statuses(store):
        if not isinstance(status, StoreError) and status.experiment == name:
            reporter.write(progress_of(status))
            return page
    reporter.write()
    return page


def _reporter(described: Experiment | LoadedStudy, store: Store) -> Reports:
    # Imported late: the plotting libraries take seconds, which a refused description need not wait for.
    if isinstance(described, LoadedStudy):
        graph = StudyGraph(described.experiments)
        from vldd_dist.monitoring.reports.study_report import StudyReporter

        return StudyReporter(described.study, graph, store)
    one = make_graph(described)
    from vldd_dist.monitoring.reports.report import Reporter

    return Reporter(one, store)
