"""The result of a run: what happened to each of its units."""

from dataclasses import dataclass, field

from vldd_dist.pipeline.outcome import Outcome
from vldd_dist.pipeline.work_unit import WorkUnit


@dataclass
class RunResult:
    """The units of a run by what happened to them.

    Attributes:
        ran: units that this run committed.
        found: units that were already committed when it started.
        failed: units that are not tried again, each with the outcome of its last attempt.
        blocked: units that need the output of a failed unit.
    """

    ran: list[WorkUnit] = field(default_factory=list)
    found: list[WorkUnit] = field(default_factory=list)
    failed: list[tuple[WorkUnit, Outcome]] = field(default_factory=list)
    blocked: list[WorkUnit] = field(default_factory=list)

    @property
    def not_run(self) -> str:
        """A sentence on the blocked units; empty if there are none."""
        if not self.blocked:
            return ""
        were, need = ("was", "it needs") if len(self.blocked) == 1 else ("were", "they need")
        units = f"{len(self.blocked)} unit{'s' * (len(self.blocked) != 1)}"
        return f"{units} {were} not run, because {need} the output of a failed unit"

    @property
    def exit_code(self) -> int:
        """0, or the exit code of the first failed unit."""
        return self.failed[0][1].exit_code if self.failed else 0
