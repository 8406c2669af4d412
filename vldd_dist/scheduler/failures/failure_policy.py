"""Whether and when a unit is tried again after a failed attempt: pure functions, and a retry budget for each class of
failure."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from vldd_dist.pipeline.outcome import Outcome
from vldd_dist.pipeline.stage import stage_of


@dataclass(frozen=True)
class RetryBudget:
    """How often one unit may be tried again without a new checkpoint, for each class of failure (`Outcome.status`). The budget
    for lost machines is large because the unit did not cause the loss. A program error rarely goes away. A worker that was
    killed or broke on a machine that is still alive often fails in the same way again. A store that cannot be reached comes
    back, and until then its machine has nothing else to do.

    Attributes:
        pauses: seconds before the first, second, ... retry of a unit whose status is killed or broken; the last value is used
            for all further retries.
        outage_pauses: the same after an outage; with the attempts themselves about an hour.
    """

    lost: int = 20
    crashed: int = 1
    broken: int = 3
    outage: int = 10
    killed: int = 3
    pauses: tuple[float, ...] = (1.0, 5.0, 30.0)
    outage_pauses: tuple[float, ...] = (1.0, 5.0, 30.0, 60.0, 120.0, 300.0, 600.0)


# Failures that the node may have caused: the unit is retried after a pause, on another node if there is one.
AVOID_NODE = ("broken", "outage", "killed")


def may_retry(outcome: Outcome, earlier: Sequence[Outcome], budget: RetryBudget) -> bool:
    """Whether to retry a unit whose attempt ended with `outcome`, after the failed attempts `earlier`."""
    limit: dict[str, int] = {
        "lost": budget.lost,
        "crashed": budget.crashed,
        "broken": budget.broken,
        "outage": budget.outage,
        "killed": budget.killed,
    }
    return _count(outcome, earlier) < limit.get(outcome.status, 0)


def pause_before_retry(outcome: Outcome, earlier: Sequence[Outcome], budget: RetryBudget) -> float:
    """Seconds to wait before deciding whether and where to retry the unit; 0: decide at once."""
    pauses = budget.outage_pauses if outcome.status == "outage" else budget.pauses
    if outcome.status not in AVOID_NODE or not pauses:
        return 0.0
    return pauses[min(_count(outcome, earlier), len(pauses) - 1)]


def with_node_losses(outcomes: Sequence[Outcome], is_alive: Callable[[str], bool]) -> list[Outcome]:
    """The same outcomes, with those of `AVOID_NODE` replaced by `lost` where the node has left the cluster since: on a dying
    node the workers die first, and a rank that is gone with its node may be taken for one that hangs."""
    return [
        replace(outcome, status="lost")
        if outcome.status in AVOID_NODE and outcome.node is not None and not is_alive(outcome.node)
        else outcome
        for outcome in outcomes
    ]


def final_outcome(outcome: Outcome, earlier: Sequence[Outcome], kind: str) -> Outcome:
    """The outcome of a unit of this kind that is not tried again, with advice added to its cause."""
    attempts = _count(outcome, earlier) + 1
    if outcome.status == "killed":
        stage = stage_of(kind)
        fewer = f", or raise {stage.section}.resources.cpus so that fewer units share a machine" if stage.section else ""
        advice = (
            f"killed {attempts} times on machines that are still alive, most likely because memory ran out: lower "
            f"{stage.lower_for_memory}{fewer}"
        )
        return replace(outcome, cause=f"{outcome.cause}; {advice}")
    if outcome.status == "lost":
        advice = (
            f"its machine was lost {attempts} times without a new checkpoint in between; run the same command again to go on"
        )
        return replace(outcome, cause=f"{outcome.cause}; {advice}")
    if outcome.status in ("broken", "outage"):
        advice = f"tried {attempts} times"
        if outcome.exit_code == 1:
            # Errors with other exit codes, those of the store, say themselves what to do.
            advice += ": check the machines and the packages installed on them"
        return replace(outcome, cause=f"{outcome.cause}; {advice}")
    return outcome


def _count(outcome: Outcome, earlier: Sequence[Outcome]) -> int:
    """The number of earlier attempts with the same status."""
    return Counter(past.status for past in earlier)[outcome.status]
