"""The interface through which a run is followed."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Protocol

from vldd_dist.events import RunEvent
from vldd_dist.pipeline.work_unit import WorkUnit


class RunObserver(Protocol):
    """Called by the controller, on its thread: a method that blocks delays the run."""

    def begin(self, units: Sequence[WorkUnit], committed: AbstractSet[str], max_running: int | None) -> None:
        """Called once, before anything is submitted.

        Args:
            committed: ids of units that an earlier run committed.
            max_running: the largest number of units at once; None: as many as fit.
        """
        ...

    def event(self, event: RunEvent) -> None:
        """Called for each event, in order."""
        ...

    def refresh(self) -> None:
        """Called after every poll, several times a second, whether or not there was an event."""
        ...
