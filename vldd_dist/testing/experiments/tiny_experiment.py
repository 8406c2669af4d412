"""The demo, shortened to seconds, and functions that run its units in this process."""

import atexit
import shutil
import tempfile
from functools import cache

from vldd_dist.artifacts.keys import STORE_MARK, ManifestKey, prefix_of
from vldd_dist.artifacts.unit_writer import UnitWriter
from vldd_dist.artifacts.units import UnitReader, is_done
from vldd_dist.config.experiment import Experiment
from vldd_dist.config.loading.load import load_experiment
from vldd_dist.events import SendReport
from vldd_dist.pipeline.context import StageContext
from vldd_dist.pipeline.execute import execute
from vldd_dist.pipeline.graphs.experiment import Graph
from vldd_dist.pipeline.work_unit import WorkUnit, in_dependency_order
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny import TINY

# The kinds of units that prepare data and towers for experts and later stages.
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


def run(store: Store, units: list[WorkUnit], report: SendReport = lambda event: None) -> None:
    """Run the units that the store lacks. Units that prepare scenes, which many tests share, are made once per process; other
    stores get a copy, as if an earlier run had made them."""
    for unit in units:
        if is_done(store, unit.kind, unit.id):
            continue
        if unit.kind not in DATA_KINDS or not _uses_scenes(unit):
            execute(unit.order(), store, report)
        elif is_done(_shared_store(), unit.kind, unit.id):
            _copy(unit, _shared_store(), store)
        else:
            execute(unit.order(), store, report)
            _copy(unit, store, _shared_store())


def _uses_scenes(unit: WorkUnit) -> bool:
    """Whether all its images are scenes. Units of files are not shared, because the files may change while the id stays."""
    groups = [needed for needed in in_dependency_order([unit]) if needed.kind == "shard_group"]
    return all(group.spec["source"]["name"] == "scenes" for group in groups)


@cache
def _shared_store() -> Store:
    """The store of the data units that this process has made."""
    folder = tempfile.mkdtemp(prefix="vldd-made-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Store(folder)


def _copy(unit: WorkUnit, source: Store, target: Store) -> None:
    """Copy a unit's objects, the mark of a store, and the manifest last, as if the unit had run there."""
    keys = [info.key for info in UnitReader(source, unit.kind, unit.id).manifest.objects.values()]
    for key in (*keys, STORE_MARK, ManifestKey(prefix_of(unit.kind, unit.id)).key):
        target.write(key, source.read(key))


def units_of(tree: Experiment, kind: str) -> list[WorkUnit]:
    return [unit for unit in Graph(tree).units() if unit.kind == kind]


def workspace(store: Store, unit: WorkUnit) -> StageContext:
    return StageContext(unit.order(), store, UnitWriter(store, unit.kind, unit.id, {}, {}), lambda event: None)
