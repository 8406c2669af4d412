"""What the machines lack for a unit."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Shortage:
    """Why no worker of a unit runs.

    Attributes:
        problem: what the unit asks for and what the machines have.
        awaited: what the run waits for.
        nothing_came: the end of the error message if nothing changes, for example "no others came".
        times_out: whether the run ends with that error if the shortage lasts for the run's timeout.
    """

    problem: str
    awaited: str
    nothing_came: str
    times_out: bool = True

    @property
    def notice(self) -> str:
        return f"{self.problem}: waiting for {self.awaited}"
