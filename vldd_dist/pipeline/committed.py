"""Which units of a plan are already committed."""

from collections.abc import Iterable

from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.store.store import Store


def committed_units(store: Store, units: Iterable[WorkUnit]) -> set[str]:
    """Ids of the units whose manifest is in the store. Lists the store once, whatever the number of units."""
    manifests = {key for key in store.list("units") if key.endswith("/manifest.json")}
    return {unit.id for unit in units if f"units/{unit.kind}/{unit.id}/manifest.json" in manifests}
