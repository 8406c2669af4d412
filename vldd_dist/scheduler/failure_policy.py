"""How a unit's attempt ended, and what follows: pure functions decide, with a budget for each kind of failure."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from vldd_dist.pipeline.outcome import Outcome


@dataclass(frozen=True)
class RetryBudget:
    """How often one unit may be tried again: machines come and go, a program error seldom heals, and what kills or breaks a
    worker on a machine that lives mostly does so again.

    Attributes:
        pauses: seconds before a unit is tried again that was killed or broken: once, twice and so on; the last one holds for
            all further times.
    """

    lost: int = 20
    crashed: int = 1
    broken: int = 3
    killed: int = 3
    pauses: tuple[float, ...] = (1.0, 5.0, 30.0)


# Another machine may do better, and this one may recover.
PAUSED = ("broken", "killed")

# By kind of unit: the keys it takes memory by, and the section whose `resources` say how many share a machine.
MEMORY = {
    "dataset": ("data.shard_images", None),
    "image_weights": ("pretrain.batch_size", "pretrain"),
    "caption_embeddings": ("embeddings.batch_size", "embeddings"),
    "expert": ("experts.batch_size", "experts"),
    "features": ("evaluation.encode_batch", "coresets"),
    "coreset": ("distill.pairs", "coresets"),
    "distillation": ("distill.batch_size or distill.inner_steps", "distill"),
    "evaluation": ("evaluation.batch_size or evaluation.encode_batch", "evaluation"),
    "publication": ("distill.pairs", None),
}


def may_retry(outcome: Outcome, earlier: Sequence[Outcome], budget: RetryBudget) -> bool:
    """Whether a unit whose attempt ended so, after `earlier` failed attempts, is tried again."""
    limit: dict[str, int] = {
        "lost": budget.lost,
        "crashed": budget.crashed,
        "broken": budget.broken,
        "killed": budget.killed,
    }
    return _times(outcome, earlier) < limit.get(outcome.status, 0)


def pause_before_retry(outcome: Outcome, earlier: Sequence[Outcome], budget: RetryBudget) -> float:
    """Seconds until it is decided whether, and where, the unit is tried again."""
    if outcome.status not in PAUSED or not budget.pauses:
        return 0.0
    return budget.pauses[min(_times(outcome, earlier), len(budget.pauses) - 1)]


def by_what_lives(outcomes: Sequence[Outcome], lives: Callable[[str], bool]) -> list[Outcome]:
    """The same, where a worker that died before its node did counts as lost with it: a dying node's workers go first."""
    return [
        replace(outcome, status="lost")
        if outcome.status == "killed" and outcome.node is not None and not lives(outcome.node)
        else outcome
        for outcome in outcomes
    ]


def last_words(outcome: Outcome, earlier: Sequence[Outcome], kind: str) -> Outcome:
    """What a person is told of a unit of this kind that is not tried again."""
    times = _times(outcome, earlier) + 1
    if outcome.status == "killed":
        keys, section = MEMORY[kind]
        fewer = f", or raise {section}.resources.cpus so that fewer units share a machine" if section else ""
        mend = f"killed {times} times on machines that live, most likely for want of memory: lower {keys}{fewer}"
        return replace(outcome, cause=f"{outcome.cause}; {mend}")
    if outcome.status == "broken":
        mend = f"tried {times} times: see to the machines, and to what is installed on them"
        return replace(outcome, cause=f"{outcome.cause}; {mend}")
    return outcome


def _times(outcome: Outcome, earlier: Sequence[Outcome]) -> int:
    return Counter(past.status for past in earlier)[outcome.status]
