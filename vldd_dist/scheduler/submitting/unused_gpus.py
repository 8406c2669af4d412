"""Tells the user about GPUs that no unit of the run will use."""

from collections.abc import Callable, Iterable

from vldd_dist.events import RunEvent, RunNotice
from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.scheduler.submitting.admission import Admission


class UnusedGpus:
    """Looks for GPUs of the machines. On a cluster, those with GPUs may join hours after the start.

    Args:
        missing: the units that are not committed.
    """

    def __init__(self, missing: Iterable[WorkUnit], admission: Admission, emit: Callable[[RunEvent], None]) -> None:
        units = list(missing)
        self._may_be_unused = not any(unit.gpus for unit in units) and any(unit.device != "cpu" for unit in units)
        self._admission, self._emit = admission, emit

    def check(self) -> None:
        """Emit a notice if there are GPUs and no unit asks for one, once. Call it at regular intervals."""
        if self._may_be_unused and self._admission.capacity.gpus:
            self._may_be_unused = False
            self._emit(
                RunNotice(
                    f"the machines have {self._admission.capacity}, and no unit asks for a GPU: --gpus 1 gives one to each "
                    "worker that runs a network"
                )
            )
