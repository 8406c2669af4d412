"""What becomes of a group of ranks, and which of Ray's errors are nobody's fault."""

from datetime import timedelta

import pytest
from ray.exceptions import NodeDiedError, RayTaskError

from vldd_dist.orchestration import ray_work
from vldd_dist.orchestration.outcomes import DONE, Outcome
from vldd_dist.orchestration.ray_work import GroupAttempt, outcome_of, worst

WAITS, REFUSED = Outcome("waits", awaits="an expert"), Outcome("refused", "a wrong key", 2)


class Group(GroupAttempt):
    """Of two ranks that end when they are told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.references = ["rank 0", "rank 1"]
        self._all, self._timeout = list(self.references), timedelta(seconds=10)
        self._ended, self._failed_at = {}, None
        self.told: dict[str, Outcome] = {}
        monkeypatch.setattr(ray_work, "outcome_of", self.told.get)


@pytest.mark.parametrize("end", [DONE, WAITS])
def test_ranks_that_end_alike_are_all_waited_for(end: Outcome, monkeypatch: pytest.MonkeyPatch) -> None:
    group = Group(monkeypatch)
    # Rank 0 has the checkpoint's mark, or the manifest, to write still.
    group.told["rank 1"] = end
    assert group.outcome() is None
    group.told["rank 0"] = end
    assert group.outcome() == end


def test_a_refusal_is_not_waited_with(monkeypatch: pytest.MonkeyPatch) -> None:
    group = Group(monkeypatch)
    group.told["rank 1"] = REFUSED
    assert group.outcome() == REFUSED
    assert worst({1: WAITS, 0: REFUSED}, 2, timedelta(seconds=10)) == REFUSED


def test_a_lost_node_is_no_error_of_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    def raising(error: Exception) -> None:
        def get(reference: object) -> None:
            raise error

        monkeypatch.setattr(ray_work.ray, "wait", lambda references, timeout: (references, []))
        monkeypatch.setattr(ray_work.ray, "get", get)

    raising(NodeDiedError("the node is gone"))
    assert outcome_of("task") == Outcome("lost", "its process or machine ended: the node is gone", 1)  # type: ignore[arg-type]
    raising(RayTaskError("f", "a traceback", ValueError("no")))
    crashed = outcome_of("task")  # type: ignore[arg-type]
    assert crashed is not None
    assert crashed.status == "crashed"
