"""How a unit's attempt ended, and what follows: one pure function decides, with a budget for each kind of failure."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Outcome:
    """The end of one attempt at a unit.

    Attributes:
        status: done; refused (the user's input or the store: trying again cannot help); crashed (our program or a
            library raised); lost (the worker or its machine died: nobody's fault).
        cause: one sentence, empty when done.
        exit_code: what a command that ends because of it returns.
    """

    status: Literal["done", "refused", "crashed", "lost"]
    cause: str = ""
    exit_code: int = 0


DONE = Outcome("done")


@dataclass(frozen=True)
class RetryBudget:
    """How often one unit may be tried again: machines come and go, a program error seldom heals."""

    lost: int = 20
    crashed: int = 1


def may_retry(outcome: Outcome, earlier: list[Outcome], budget: RetryBudget) -> bool:
    """Whether a unit whose attempt ended so, after `earlier` failed attempts, is tried again."""
    spent = sum(past.status == outcome.status for past in earlier)
    return spent < {"lost": budget.lost, "crashed": budget.crashed}.get(outcome.status, 0)
