"""How a unit's attempt ended, and what follows: one pure function decides, with a budget for each kind of failure."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Outcome:
    """The end of one attempt at a unit.

    Attributes:
        status: done; refused (the user's input or the store: trying again cannot help); crashed (our program or a
            library raised); lost (the worker or its machine died: nobody's fault); waits (it has gone as far as it can
            without the input `awaits`, and stored that).
        cause: one sentence, empty when done.
        exit_code: what a command that ends because of it returns.
        awaits: a unit's id.
    """

    status: Literal["done", "refused", "crashed", "lost", "waits"]
    cause: str = ""
    exit_code: int = 0
    awaits: str = ""


DONE = Outcome("done")


class InputAwaited(Exception):
    """Raised by a unit that could start but cannot end without an input that is not committed yet.

    Attributes:
        role: of that input.
    """

    def __init__(self, role: str) -> None:
        super().__init__(f"{role} is not committed yet")
        self.role = role


@dataclass(frozen=True)
class RetryBudget:
    """How often one unit may be tried again: machines come and go, a program error seldom heals."""

    lost: int = 20
    crashed: int = 1


def may_retry(outcome: Outcome, earlier: list[Outcome], budget: RetryBudget) -> bool:
    """Whether a unit whose attempt ended so, after `earlier` failed attempts, is tried again."""
    spent = sum(past.status == outcome.status for past in earlier)
    return spent < {"lost": budget.lost, "crashed": budget.crashed}.get(outcome.status, 0)
