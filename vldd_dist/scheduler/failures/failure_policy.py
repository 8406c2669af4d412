"""What follows from how an attempt ended: pure functions, with a retry budget for each class of failure."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from vldd_dist.pipeline.outcome import Outcome
from vldd_dist.pipeline.stage import stage_of


@dataclass(frozen=True)
class RetryBudget:
    """How often one unit may be tried again, by class of failure (`Outcome.status`). Lost machines are nobody's fault; a
    program error rarely goes away; a worker that was killed, or broke, on a machine that lives often does so again.

    Attributes:
        pauses: seconds before the first, second, ... retry of a unit that was killed or broke; the last holds for all further
            ones.
    """

    lost: int = 20
    crashed: int = 1
    broken: int = 3
    killed: int = 3
    pauses: tuple[float, ...] = (1.0, 5.0, 30.0)


# Classes of failure that the node may have caused: retried after a pause, and on another node if there is one.
AVOID_NODE = ("broken", "killed")


def may_retry(outcome: Outcome, earlier: Sequence[Outcome], budget: RetryBudget) -> bool:
    """Whether a unit is tried again whose attempt ended with `outcome`, after `earlier` failed attempts."""
    limit: dict[str, int] = {
        "lost": budget.lost,
        "crashed": budget.crashed,
        "broken": budget.broken,
        "killed": budget.killed,
    }
    return _count(outcome, earlier) < limit.get(outcome.status, 0)


def pause_before_retry(outcome: Outcome, earlier: Sequence[Outcome], budget: RetryBudget) -> float:
    """Seconds until it is decided whether, and where, the unit is tried again; 0: at once."""
    if outcome.status not in AVOID_NODE or not budget.pauses:
        return 0.0
    return budget.pauses[min(_count(outcome, earlier), len(budget.pauses) - 1)]


def with_node_losses(outcomes: Sequence[Outcome], is_alive: Callable[[str], bool]) -> list[Outcome]:
    """The same outcomes, with `killed` turned into `lost` where the node is gone by now: on a dying node, workers die first."""
    return [
        replace(outcome, status="lost")
        if outcome.status == "killed" and outcome.node is not None and not is_alive(outcome.node)
        else outcome
        for outcome in outcomes
    ]


def final_outcome(outcome: Outcome, earlier: Sequence[Outcome], kind: str) -> Outcome:
    """The outcome of a unit of this kind that is not tried again, with advice in its cause."""
    attempts = _count(outcome, earlier) + 1
    if outcome.status == "killed":
        stage = stage_of(kind)
        fewer = f", or raise {stage.section}.resources.cpus so that fewer units share a machine" if stage.section else ""
        advice = (
            f"killed {attempts} times on machines that live, most likely for want of memory: lower "
            f"{stage.lower_for_memory}{fewer}"
        )
        return replace(outcome, cause=f"{outcome.cause}; {advice}")
    if outcome.status == "broken":
        advice = f"tried {attempts} times: check the machines and what is installed on them"
        return replace(outcome, cause=f"{outcome.cause}; {advice}")
    return outcome


def _count(outcome: Outcome, earlier: Sequence[Outcome]) -> int:
    """Earlier attempts that failed in the same class."""
    return Counter(past.status for past in earlier)[outcome.status]
