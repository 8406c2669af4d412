"""The interface to whatever follows a run."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Protocol

from vldd_dist.events import RunEvent
from vldd_dist.pipeline.work_unit import WorkUnit


class RunObserver(Protocol):
    """Called by the controller, on its thread: a method that blocks delays the run."""

    def begin(self, units: Sequence[WorkUnit], committed: AbstractSet[str], max_running: int | None) -> None:
        """Before anything is submitted.

        Args:
            committed: ids of units that an earlier run committed.
            max_running: most units at once; None: as many as fit.
        """
        ...

    def event(self, event: RunEvent) -> None:
        """Something happened."""
        ...

    def refresh(self) -> None:
        """Called after every poll, several times a second, whether or not something happened."""
        ...
