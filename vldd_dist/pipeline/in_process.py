"""Runs units in the calling process, one after the other and without Ray: for debuggers, profilers and benchmarks."""

from collections.abc import Callable, Sequence

from vldd_dist.artifacts.units import mark_store
from vldd_dist.errors import ConfigError
from vldd_dist.events import SendReport
from vldd_dist.pipeline.execute import execute
from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.store.store import Store


def run_in_process(
    missing: Sequence[WorkUnit], store: Store, report_of: Callable[[WorkUnit], SendReport] = lambda unit: lambda event: None
) -> None:
    """Run units that the store lacks. None is tried again: an error is raised as it is, and what was committed before it
    stays in the store.

    Args:
        missing: inputs first, as `missing_units` returns them.
        report_of: called when a unit begins; returns the function that receives the unit's reports.

    Raises:
        ConfigError: a unit runs on several ranks. Nothing was run.
    """
    if group := next((unit for unit in missing if unit.order().is_group), None):
        raise ConfigError(
            f"{group.label} runs on ranks, which are processes of their own: set distill.workers=1, distill.sharding=none, "
            "experts.workers=1 and experts.sharding=none, or run it on Ray"
        )
    mark_store(store)
    for unit in missing:
        execute(unit.order(), store, report_of(unit))
