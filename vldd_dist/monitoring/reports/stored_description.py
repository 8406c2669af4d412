"""The description that a run stores beside its report: the report can be written again from it, and `vldd gc` reads it."""

import json

from vldd_dist import strict_json
from vldd_dist.artifacts.keys import run_units_key
from vldd_dist.artifacts.runs.run_units import RunUnits
from vldd_dist.config.described import Described
from vldd_dist.config.loading.descriptions import read_description
from vldd_dist.errors import ConfigError, StoreError
from vldd_dist.monitoring.reports.report_files import DESCRIPTION, key_of
from vldd_dist.pipeline.graphs.experiment import Graph
from vldd_dist.pipeline.graphs.study import StudyGraph
from vldd_dist.store.store import MissingObject, Store


def write_description(store: Store, described: Described) -> None:
    """Store the description, which `vldd report` needs. Raises StoreError."""
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
