"""The units and records of runs that `vldd gc --keep` must not remove."""

from collections.abc import Iterator, Sequence

from vldd_dist.artifacts.garbage import Keep
from vldd_dist.artifacts.keys import RUNS, STATUS, RecordKey, parse
from vldd_dist.artifacts.runs.run_status import RunStatus, read_statuses
from vldd_dist.artifacts.runs.run_units import RunUnits, read_run_units
from vldd_dist.config.loading.descriptions import load_description
from vldd_dist.errors import ConfigError, StoreError
from vldd_dist.monitoring.live.status import is_outdated
from vldd_dist.monitoring.reports.report_files import DESCRIPTION, report_names
from vldd_dist.monitoring.reports.stored_description import read_stored_description, run_of
from vldd_dist.pipeline.committed import committed_units
from vldd_dist.pipeline.graphs.description import graph_of
from vldd_dist.pipeline.graphs.experiment import Graph
from vldd_dist.pipeline.graphs.study import StudyGraph
from vldd_dist.store.objects import DamagedObject
from vldd_dist.store.store import MissingObject, Store


def needed_by(store: Store, configs: Sequence[str], *, published: bool = True) -> Keep:
    """Every unit that is needed by one of the descriptions, by the latest run in this store under the name of one (perhaps with
    other `--set`), or by a run that is running now, as it recorded them when it started. All other runs under these names have
    ended.

    Args:
        published: as in `Keep`.

    Raises:
        ConfigError, DataError: a description cannot be read, its graph cannot be made on this machine, the units of the latest
            run have other ids here, or the store has runs, but nothing of a description.
        StoreError: a run is running, and the store does not say which units it needs.
    """
    units: set[tuple[str, str]] = set()
    runs: set[str] = set()
    recorded: set[str] = set()
    for name, graph in _graphs(store, configs):
        of_graph = {(unit.kind, unit.id) for unit in graph.units()}
        units |= of_graph
        runs.add(f"{name}/{RunUnits.of(name, of_graph).run}")
        keys = (key for folder in (RUNS, STATUS) for key in store.keys(f"{folder}/{name}"))
        recorded |= {found.run for key in keys if isinstance(found := parse(key), RecordKey)}
    for status in _running(store):
        units |= _units_of(store, status)
        runs.add(f"{status.experiment}/{status.run}")
    return Keep(units, published, ended_runs=recorded - runs)


def _graphs(store: Store, configs: Sequence[str]) -> Iterator[tuple[str, Graph | StudyGraph]]:
    """(name, graph) of each description, and of the latest run under its name."""
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
            yield ran.name, graph
        else:
            _refuse_unknown(store, config, planned)
        yield described.name, planned


def _refuse_unknown(store: Store, config: str, planned: Graph | StudyGraph) -> None:
    """Raises ConfigError if no unit of the description is in the store, which has runs: perhaps it was renamed for the next
    run, and all that the runs have committed would count as not needed."""
    names = report_names(store, DESCRIPTION)
    if names and not committed_units(store, planned.units()):
        raise ConfigError(
            f"--keep {config}: nothing of it is in {store.url}, which has the runs of {', '.join(names)}: name the description "
            "of a run that is to be kept (nothing was removed)"
        )


def _running(store: Store) -> Iterator[RunStatus]:
    """The statuses of the runs that are running, also if their drivers have died."""
    for status in read_statuses(store):
        if isinstance(status, StoreError):
            raise StoreError(f"{status} (so the units that this run needs are not known: if it has ended, remove the file)")
        if status.state == "running":
            yield status


def _units_of(store: Store, status: RunStatus) -> set[tuple[str, str]]:
    """The recorded units of a running run; empty if its driver has died and its record cannot be read."""
    try:
        return read_run_units(store, status.experiment, status.run)
    except (MissingObject, DamagedObject) as error:
        if not is_outdated(status):
            raise StoreError(
                f"{error} ({status.experiment} is running, and the units that it needs are not known: wait for its end)"
            ) from None
        return set()
