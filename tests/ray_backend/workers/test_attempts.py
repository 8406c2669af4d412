"""The outcome of a group of ranks, and of a worker that gives no answer."""

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any
from unittest.mock import ANY

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError, NodeDiedError, OutOfMemoryError, WorkerCrashedError

from vldd_dist.events import Progress, UnitReported
from vldd_dist.pipeline.outcome import DONE, Outcome
from vldd_dist.ray_backend import executor as executor_module
from vldd_dist.ray_backend.executor import CHECKPOINT_SECONDS, RayExecutor
from vldd_dist.ray_backend.workers import attempts as ray_work
from vldd_dist.ray_backend.workers.attempts import GRACE_SECONDS, GroupAttempt, TaskAttempt, outcome_of, worst
from vldd_dist.ray_backend.workers.messages import encode
from vldd_dist.store.store import Store
from vldd_dist.testing.scripted_executor import make

# Unit id, and what its worker sent.
Message = tuple[str, dict[str, Any]]

WAITS, REFUSED = Outcome("waits", awaits="an expert"), Outcome("refused", "a wrong key", 2)


class Group(GroupAttempt):
    """A group of two ranks that end when the test sets their outcomes in `told`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.references = ["rank 0", "rank 1"]
        self._all, self._ended, self._failed_at = list(self.references), {}, None
        # Rank -> what its process sent before it exited.
        self.said: dict[int, Outcome] = {}
        self._sent = self.said.get
        self._node_of_rank = ["n0", "n1"]
        monkeypatch.setattr(ray_work.ray, "get", lambda reference, timeout: reference)
        self.told: dict[str, Outcome] = {}
        monkeypatch.setattr(ray_work, "outcome_of", self.told.get)


class Task:
    """Ray's task; it does not run."""

    def options(self, **options: Any) -> "Task":
        return self

    def remote(self, *arguments: Any) -> str:
        return "its task"


class MessageQueue:
    """The queue of an executor. Reading it empties `messages`."""

    def __init__(self, messages: list[Message]) -> None:
        self.messages = messages

    def qsize(self) -> int:
        return len(self.messages)

    def get_nowait_batch(self, size: int) -> list[Message]:
        batch, self.messages[:] = list(self.messages), []
        return batch


@pytest.mark.parametrize("end", [DONE, WAITS])
def test_a_group_ends_when_all_ranks_are_done_or_waiting(end: Outcome, monkeypatch: pytest.MonkeyPatch) -> None:
    group = Group(monkeypatch)
    # Rank 0 still has to write the checkpoint's mark or the manifest.
    group.told["rank 1"] = end
    assert group.outcome() is None
    group.told["rank 0"] = end
    found = group.outcome()
    assert found is not None
    assert (found.status, found.awaits) == (end.status, end.awaits)


def test_a_refused_rank_ends_the_group_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    group = Group(monkeypatch)
    group.told["rank 1"] = REFUSED
    refused = group.outcome()
    assert refused is not None
    assert (refused.status, refused.cause) == ("refused", REFUSED.cause)
    assert worst({1: WAITS, 0: REFUSED}, {}) == REFUSED


def test_a_lost_rank_ends_the_group_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    group = Group(monkeypatch)
    group.told["rank 1"] = Outcome("lost", "the node is gone", 1, died=True)
    assert group.outcome() == Outcome("lost", "rank 1 of 2: the node is gone", 1, node="n1", died=True)


def test_a_killed_rank_counts_against_its_own_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not against the node of rank 0, which reports it."""
    group = Group(monkeypatch)
    group.told["rank 1"] = Outcome("killed", "its process was killed", 1)
    assert group.outcome() == Outcome("killed", "rank 1 of 2: its process was killed", 1, node="n1")


def test_an_exception_from_ray_becomes_the_outcome_of_a_worker_without_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def answers(given: Any) -> Callable[[object], Any]:
        def get(reference: object) -> Any:
            if isinstance(given, Exception):
                raise given
            return given

        return get

    monkeypatch.setattr(ray_work.ray, "wait", lambda references, timeout: (references, []))
    for given, outcome in (
        (asdict(REFUSED), REFUSED),
        (NodeDiedError("the node is gone"), Outcome("lost", "its process or machine ended: the node is gone", 1, died=True)),
        (WorkerCrashedError(), Outcome("killed", "its process was killed", 1)),
        # The process lives, but Ray could not read its answer.
        ("no fields", Outcome("broken", ANY, 1)),
    ):
        monkeypatch.setattr(ray_work.ray, "get", answers(given))
        assert outcome_of("task") == outcome  # type: ignore[arg-type]


def test_the_failure_of_one_rank_is_the_outcome_of_the_group() -> None:
    missed = Outcome("lost", "connection closed by peer", 1)
    for status in ("crashed", "broken", "killed"):
        own = Outcome(status, "why", 1, node="n")  # type: ignore[arg-type]
        assert worst({0: missed, 1: own}, {}) == Outcome(own.status, "rank 1 of 2: why", 1, node="n")
    died = Outcome("lost", "the node is gone", 1, died=True)
    assert worst({0: missed, 1: died}, {}) == Outcome("lost", "rank 1 of 2: the node is gone", 1, died=True)
    assert worst({0: missed, 1: died}, {2: "n2"}) == Outcome("lost", "rank 1 of 3: the node is gone", 1, died=True)
    assert worst({0: missed, 1: missed}, {}).status == "broken", "no machine was lost"


def test_the_rank_that_hangs_is_named_with_what_another_says() -> None:
    lost = {rank: Outcome("lost", f"Timed out waiting {rank}", 1, node=f"n{rank}") for rank in (0, 1, 3)}
    said = "of 4 did not answer the others, it hangs or its network failed (rank 0: Timed out waiting 0)"
    assert worst(lost, {2: "n2"}) == Outcome("broken", f"rank 2 {said}", 1, node="n2")
    del lost[3]
    assert worst(lost, {2: "n2", 3: "n3"}) == Outcome("broken", f"rank 2, 3 {said}", 1, node="n2")


def test_a_rank_that_fails_while_all_others_wait_for_it_is_the_cause() -> None:
    lost = {1: Outcome("lost", "NCCL error: Call to connect to 10.0.3.7 failed: No route to host", 1, node="n1")}
    found = worst(lost, {0: "n0", 2: "n2", 3: "n3"})
    assert (found.status, found.node) == ("broken", "n1")
    assert found.cause == f"rank 1 of 4 cannot communicate with the others: {lost[1].cause}"
    assert worst(lost, dict.fromkeys((0, 2, 3), "n1")).cause == found.cause, "on one machine"
    assert worst(lost, dict.fromkeys((0, 2, 3), "n2")).node == "n2", "all ranks of a machine that is gone"


def test_a_rank_that_ends_itself_because_it_waits_for_another_is_not_the_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it does on a GPU, where its main thread cannot answer. Ray says that its process was killed."""
    now = 0.0
    monkeypatch.setattr(ray_work.time, "monotonic", lambda: now)
    group = Group(monkeypatch)
    group.told["rank 0"] = Outcome("killed", "its process was killed", 1)
    group.said[0] = Outcome("lost", "its GPU waits", 1, node="n0")
    assert group.outcome() is None
    now = GRACE_SECONDS + 1
    said = "did not answer the others, it hangs or its network failed (rank 0: its GPU waits)"
    assert group.outcome() == Outcome("broken", f"rank 1 of 2 {said}", 1, node="n1")


@pytest.mark.parametrize("ended", [8, 3])
def test_the_machine_that_does_not_reach_the_others_is_avoided_and_not_that_of_rank_0(ended: int) -> None:
    """All ranks have ended, or the others are still waiting."""
    cause = "rank 3 of 8 did not connect to rank 0 within 5 min"
    outcomes = {rank: Outcome("lost", cause, 1, node=f"n{rank}", missing=(3,)) for rank in range(ended)}
    silent: dict[int, str | None] = {rank: f"n{rank}" for rank in range(ended, 8)}
    found = worst(outcomes, silent)
    assert (found.status, found.cause, found.node) == ("broken", cause, "n3")


def test_rank_0_is_avoided_if_no_other_rank_reaches_it() -> None:
    outcomes = {rank: Outcome("lost", "could not connect", 1, node=f"n{rank}", missing=(rank,)) for rank in range(1, 4)}
    assert worst(outcomes, {0: "n0"}).node == "n0"
    assert worst({1: outcomes[1]}, {0: "n0"}).node == "n1"


@pytest.mark.parametrize(
    ("error", "replaced"),
    [
        (OutOfMemoryError("its node was short of memory"), True),
        (ActorDiedError(), True),
        (ActorUnavailableError("busy", None), False),
    ],
)
def test_losing_the_progress_queue_does_not_end_the_run(
    error: Exception, replaced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OfOne:
        """A queue; the first one that is made is lost."""

        def __init__(self) -> None:
            made.append(self)

        def qsize(self) -> int:
            if self is made[0]:
                raise error
            return 1

        def get_nowait_batch(self, size: int) -> list[Message]:
            return [("a", encode(Progress(size, 9), "n"))]

    made: list[OfOne] = []
    executor = RayExecutor(Store("memory://x"), True, make_queue=lambda: OfOne())
    assert executor.reports() == []
    assert len(made) == 1 + replaced
    assert executor.reports() == ([UnitReported("a", Progress(1, 9), "n")] if replaced else [])


def test_a_broken_process_reports_its_cause_to_the_queue_before_it_exits(monkeypatch: pytest.MonkeyPatch) -> None:
    said = Outcome("broken", "no module", 1, node="n")
    told: list[Message] = [("a", encode(Progress(1, 9), "n")), ("a", {"ended": asdict(said), "rank": 0})]
    killed = Outcome("killed", "its process was killed", 1)
    monkeypatch.setattr(ray_work, "outcome_of", lambda reference: killed)
    monkeypatch.setattr(ray_work, "_task", lambda cpus, gpus: Task())
    monkeypatch.setattr(executor_module.ray, "wait", lambda references, num_returns, timeout: (references, []))
    executor = RayExecutor(Store("memory://x"), True, make_queue=lambda: MessageQueue(told))
    for name in ("a", "b"):
        executor.submit(replace(make(name).order(), id=name))
    assert dict(executor.wait(1)) == {"a": said, "b": killed}
    assert executor.reports() == [UnitReported("a", Progress(1, 9), "n")]
    assert executor.running == {}


@pytest.mark.parametrize(("needed", "hurry_at", "waited"), [(20, 1e9, 20), (1e9, 1e9, CHECKPOINT_SECONDS), (20, 3, 3)])
def test_a_run_that_ends_waits_for_checkpoints_unless_the_user_is_in_a_hurry(
    needed: float, hurry_at: float, waited: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Storing(TaskAttempt):
        """Stores its checkpoint `needed` seconds after it was asked to stop."""

        def __init__(self) -> None:
            self.references, self.calls = ["its task"], list[str]()  # type: ignore[list-item]

        def ask_to_stop(self) -> bool:
            self.calls.append("ask_to_stop")
            return True

        def outcome(self) -> None:
            return None

        def stop(self) -> None:
            self.calls.append("stop")

    def wait(references: list[str], num_returns: int, timeout: float) -> tuple[list[str], list[str]]:
        nonlocal now
        now += timeout
        return (references, []) if now >= needed else ([], references)

    now, told, unit = 0.0, list[str](), Storing()
    monkeypatch.setattr(executor_module.ray, "wait", wait)
    monkeypatch.setattr(executor_module.ray, "shutdown", lambda: None)
    monkeypatch.setattr(executor_module.time, "monotonic", lambda: now)
    executor = RayExecutor(Store("memory://x"), True, told.append, lambda: now >= hurry_at, make_queue=lambda: None)
    executor.running = {"a": unit}
    executor.close()
    assert (now, unit.calls) == (waited, ["ask_to_stop", "stop"])
    assert told == ["waiting up to 40 s for the checkpoints of 1 unit; Ctrl-C again: at once"]


def test_messages_of_an_earlier_attempt_are_discarded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A straggler that was moved may still have reports in the queue, and the cause of its process's end."""
    messages: list[Message] = []

    monkeypatch.setattr(executor_module, "TaskAttempt", lambda *arguments: "attempt")
    executor = RayExecutor(Store("memory://x"), True, make_queue=lambda: MessageQueue(messages))
    order = make("a").order()
    executor.submit(order)
    other = ("b", encode(Progress(2, 9), "n"))
    messages[:] = [(order.id, encode(Progress(1, 9), "n")), other, (order.id, {"ended": asdict(REFUSED), "rank": 0})]
    executor.submit(order)
    assert executor.reports() == [UnitReported("b", Progress(2, 9), "n")]
    assert executor._sent(order.id, 0) is None
