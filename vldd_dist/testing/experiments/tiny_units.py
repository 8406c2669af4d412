"""Real units of a tiny experiment, and checks of a store that holds them."""

from collections.abc import Callable
from typing import Any

from vldd_dist import load_distilled
from vldd_dist.artifacts.keys import UNITS, ManifestKey, kind_and_id, parse
from vldd_dist.artifacts.units import UnitReader
from vldd_dist.config.loading.load import load_experiment
from vldd_dist.distilled_set.manifest import NearestCaptions
from vldd_dist.distilled_set.reading import published_sets, verify
from vldd_dist.pipeline.graphs.experiment import Graph
from vldd_dist.pipeline.work_unit import UnitOrder, WorkUnit
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny import TINY

TINIER = [*TINY, "data.train_images=24", "experts.epochs=2", "distill.outer_steps=4", "distill.validate_every=4"]


def plan() -> list[WorkUnit]:
    return Graph(load_experiment("jobs/presets/scenes.yaml", TINIER)).units()


def first_of(kind: str) -> WorkUnit:
    return next(unit for unit in plan() if unit.kind == kind)


def copy_all_but(finished: Store, store: Store, unit: WorkUnit) -> None:
    """Copy everything except the unit's own objects, so that the unit can be run in `store`."""
    for key in finished.keys("units") + finished.keys("blobs"):
        if not key.startswith(f"units/{unit.kind}/{unit.id}/"):
            store.write(key, finished.read(key))


def with_other_last_bits(captions: Callable[..., list[NearestCaptions]]) -> Callable[..., list[NearestCaptions]]:
    """The same function with similarities that differ in the last bits, as on another kind of machine."""

    def perturbed(*arguments: Any) -> list[NearestCaptions]:
        return [near.model_copy(update={"similarity": near.similarity + 1e-7}) for near in captions(*arguments)]

    return perturbed


def digests(store: Store, unit: WorkUnit | UnitOrder) -> dict[str, Any]:
    """A unit's facts and the sha256 of each of its objects, which are read and verified."""
    reader = UnitReader(store, unit.kind, unit.id)
    for name in reader.manifest.objects:
        reader.read(name)
    return {name: info.sha256 for name, info in reader.manifest.objects.items()} | {"facts": reader.manifest.facts}


def read_everything(store: Store) -> None:
    """Read and verify every unit and every published set. Raises StoreError for the first damaged object."""
    for key in store.keys(UNITS):
        if isinstance(found := parse(key), ManifestKey):
            reader = UnitReader(store, *kind_and_id(found.unit))
            for name in reader.manifest.objects:
                reader.read(name)
    for folder in published_sets(store):
        verify(store.url_of(folder))
        load_distilled(store.url_of(folder))
