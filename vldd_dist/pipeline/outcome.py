"""How an attempt at a unit ended."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Outcome:
    """The end of one attempt at a unit.

    Attributes:
        status: one of
            done;
            refused: an error in the user's input or in the store, so that another attempt cannot help;
            crashed: our code, or a library that it called, raised an exception;
            broken: something around the unit failed (imports, the runtime environment, the working directory, Ray's
            messages, the credentials of the store), or the unit stopped reporting;
            outage: the store, or a file of the source, did not answer for as long as requests are retried;
            killed: the worker process died, but its machine is alive;
            lost: the machine died;
            waits: the unit cannot continue without the input `awaits` and has stored a checkpoint.
        cause: one sentence; empty when done.
        exit_code: the exit code of a command that ends because of this outcome.
        awaits: id of the unit it waits for.
        node: Ray's id of the node it ran on, if known.
        died: of a lost rank: whether its own process or machine ended, and not that of another rank that it waited for.
        missing: of a rank: the ranks that did not connect when the group was made, itself perhaps included.
    """

    status: Literal["done", "refused", "crashed", "broken", "outage", "killed", "lost", "waits"]
    cause: str = ""
    exit_code: int = 0
    awaits: str = ""
    node: str | None = None
    died: bool = False
    missing: tuple[int, ...] = ()


DONE = Outcome("done")


class InputAwaited(Exception):
    """Raised by a unit that was able to start but cannot finish without an input that is not committed yet.

    Attributes:
        role: the role of that input.
    """

    def __init__(self, role: str) -> None:
        super().__init__(f"{role} is not committed yet")
        self.role = role
