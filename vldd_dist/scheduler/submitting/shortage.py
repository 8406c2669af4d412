"""What the machines lack for a unit."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Shortage:
    """Why no worker of a unit runs.

    Attributes:
        problem: what the unit asks for and what the machines have.
        awaited: what the run waits for.
        in_vain: what has not happened when the time is over, for the error message; None: wait without a timeout.
    """

    problem: str
    awaited: str
    in_vain: str | None

    @property
    def notice(self) -> str:
        return f"{self.problem}: waiting for {self.awaited}"
