"""Which units of a plan are already committed, and which are missing."""

from collections.abc import Iterable, Sequence

from vldd_dist.artifacts.keys import UNITS, ManifestKey, prefix_of
from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.store.store import Store


def committed_units(store: Store, units: Iterable[WorkUnit]) -> set[str]:
    """Ids of the units whose manifest is in the store. Lists the store once, whatever the number of units."""
    keys = set(store.keys(UNITS))
    return {unit.id for unit in units if ManifestKey(prefix_of(unit.kind, unit.id)).key in keys}


def missing_units(store: Store, units: Sequence[WorkUnit]) -> list[WorkUnit]:
    """The units that are not committed, in their order."""
    committed = committed_units(store, units)
    return [unit for unit in units if unit.id not in committed]
