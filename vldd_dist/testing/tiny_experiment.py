"""The demo shortened to seconds, and running its units in this process."""

from vldd_dist.artifacts.unit_writer import UnitWriter
from vldd_dist.artifacts.units import UnitReader, is_done
from vldd_dist.config.experiment import Experiment
from vldd_dist.config.load import load_experiment
from vldd_dist.events import Report
from vldd_dist.pipeline.context import StageContext
from vldd_dist.pipeline.execute import execute
from vldd_dist.pipeline.graphs.experiment import make_graph
from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.store.store import Store
from vldd_dist.testing.tiny import TINY

# All that experts and later stages read of the data and the towers.
DATA_KINDS = (
    "shard_group",
    "dataset",
    "image_weights",
    "embedding_group",
    "caption_embeddings",
    "feature_group",
    "image_features",
)


def experiment(*overrides: str) -> Experiment:
    return load_experiment("jobs/presets/scenes.yaml", [*TINY, *overrides])


def run(store: Store, units: list[WorkUnit], report: Report = lambda event: None) -> None:
    for unit in units:
        if not is_done(store, unit.kind, unit.id):
            execute(unit.order(), store, report)


def digests(store: Store, unit: WorkUnit) -> dict[str, str]:
    return {name: info.sha256 for name, info in UnitReader(store, unit.kind, unit.id).manifest.objects.items()}


def units_of(tree: Experiment, kind: str) -> list[WorkUnit]:
    return [unit for unit in make_graph(tree).units() if unit.kind == kind]


def workspace(store: Store, unit: WorkUnit) -> StageContext:
    return StageContext(unit.order(), store, UnitWriter(store, unit.kind, unit.id, {}, {}), lambda event: None)
