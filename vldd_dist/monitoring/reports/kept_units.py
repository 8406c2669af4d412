"""The units that `vldd gc --keep` must not remove."""

from collections.abc import Iterator, Sequence

from vldd_dist.artifacts.runs.run_status import read_statuses
from vldd_dist.artifacts.runs.run_units import read_run_units
from vldd_dist.config.loading.load_study import load_description
from vldd_dist.errors import ConfigError, StoreError
from vldd_dist.monitoring.live.status import is_outdated
from vldd_dist.monitoring.reports.refresh import read_stored_description, run_of
from vldd_dist.monitoring.reports.report_files import DESCRIPTION, report_names
from vldd_dist.pipeline.committed import committed_units
from vldd_dist.pipeline.graphs.description import graph_of
from vldd_dist.pipeline.graphs.experiment import Graph
from vldd_dist.pipeline.graphs.study import StudyGraph
from vldd_dist.store.objects import DamagedObject
from vldd_dist.store.store import MissingObject, Store


def kept_units(store: Store, configs: Sequence[str]) -> set[tuple[str, str]]:
    """(kind, id) of every unit that is needed by one of the descriptions, by the latest run in this store under the name of one
    (perhaps with other `--set`), or by a run that is running now, as it recorded them when it started.

    Raises:
        ConfigError, DataError: a description cannot be read, its graph cannot be made on this machine, the units of the latest
            run have other ids here, or the store has runs, but nothing of a description.
        StoreError: a run is running, and the store does not say which units it needs.
    """
    described = {(unit.kind, unit.id) for graph in _graphs(store, configs) for unit in graph.units()}
    return described.union(*_of_running_runs(store))


def _graphs(store: Store, configs: Sequence[str]) -> Iterator[Graph | StudyGraph]:
    for config in configs:
        described = load_description(config)
        planned = graph_of(described)
        if ran := read_stored_description(store, described.name):
            graph = graph_of(ran)
            # Where the latest run's units have other ids than when it started, so have those of every description.
            try:
                run_of(store, ran, graph)
            except ConfigError as error:
                raise ConfigError(f"{error} (nothing was removed; if that run is not needed, remove this file)") from None
            yield graph
        else:
            _refuse_unknown(store, config, planned)
        yield planned


def _refuse_unknown(store: Store, config: str, planned: Graph | StudyGraph) -> None:
    """Raises ConfigError if no unit of the description is in the store, which has runs: perhaps it was renamed for the next
    run, and all that the runs have committed would count as not needed."""
    names = report_names(store, DESCRIPTION)
    if names and not committed_units(store, planned.units()):
        raise ConfigError(
            f"--keep {config}: nothing of it is in {store.url}, which has the runs of {', '.join(names)}: name the description "
            "of a run that is to be kept (nothing was removed)"
        )


def _of_running_runs(store: Store) -> Iterator[set[tuple[str, str]]]:
    for status in read_statuses(store):
        if isinstance(status, StoreError):
            raise StoreError(f"{status} (so the units that this run needs are not known: if it has ended, remove the file)")
        if status.state != "running":
            continue
        try:
            yield read_run_units(store, status.experiment, status.run)
        except (MissingObject, DamagedObject) as error:
            # The units of a run whose driver has died are kept if its record can be read; otherwise the command goes on.
            if not is_outdated(status):
                raise StoreError(
                    f"{error} ({status.experiment} is running, and the units that it needs are not known: wait for its end)"
                ) from None
