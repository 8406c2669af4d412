"""The units that `vldd gc --keep` must not remove."""

from collections.abc import Iterator, Sequence

from vldd_dist.artifacts.run_status import read_statuses
from vldd_dist.config.experiment import Experiment
from vldd_dist.config.loading.load_study import LoadedStudy, load_description
from vldd_dist.errors import StoreError
from vldd_dist.monitoring.live.status import is_outdated
from vldd_dist.monitoring.reports.refresh import read_stored_description
from vldd_dist.pipeline.graphs.experiment import make_graph
from vldd_dist.pipeline.graphs.study import StudyGraph
from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.store.store import Store


def kept_units(store: Store, configs: Sequence[str]) -> set[tuple[str, str]]:
    """(kind, id) of every unit that is needed by one of the descriptions, by the latest run in this store under the name of one
    (perhaps with other `--set`), or by an experiment that runs now.

    Raises:
        ConfigError, DataError: a description cannot be read, or its graph cannot be made on this machine.
        StoreError: an experiment runs, and the store does not say which units it needs.
    """
    return {(unit.kind, unit.id) for described in _needed(store, configs) for unit in _units(described)}


def _needed(store: Store, configs: Sequence[str]) -> Iterator[Experiment | LoadedStudy]:
    for config in configs:
        yield (described := load_description(config))
        if ran := read_stored_description(store, described.name):
            yield ran
    for status in read_statuses(store):
        if isinstance(status, StoreError):
            raise StoreError(f"{status} (so the units that this run needs are not known)")
        if status.state == "running":
            if running := read_stored_description(store, status.experiment):
                yield running
            elif not is_outdated(status):
                raise StoreError(
                    f"{store.url}: {status.experiment} runs, and no description says which units it needs: wait for its end"
                )


def _units(described: Experiment | LoadedStudy) -> list[WorkUnit]:
    return StudyGraph(described.experiments).units() if isinstance(described, LoadedStudy) else make_graph(described).units()
