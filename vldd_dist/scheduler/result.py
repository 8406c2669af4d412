"""What became of the units of a run."""

from dataclasses import dataclass, field

from vldd_dist.pipeline.outcome import Outcome
from vldd_dist.pipeline.work_unit import WorkUnit


@dataclass
class RunResult:
    """Attributes:
    ran: units this run committed.
    found: units that were committed before.
    failed: units that are not tried again, with how the last attempt ended.
    blocked: units that need the output of a failed one.
    """

    ran: list[WorkUnit] = field(default_factory=list)
    found: list[WorkUnit] = field(default_factory=list)
    failed: list[tuple[WorkUnit, Outcome]] = field(default_factory=list)
    blocked: list[WorkUnit] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0, or that of the first failed unit."""
        return self.failed[0][1].exit_code if self.failed else 0
