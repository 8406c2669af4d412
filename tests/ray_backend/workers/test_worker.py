"""The outcome of an attempt for each kind of error of its unit."""

from types import SimpleNamespace
from typing import Any

import pytest

from vldd_dist.errors import DataError, StoreOutage, StoreUnreachable
from vldd_dist.events import Progress, Report
from vldd_dist.ray_backend.workers import worker
from vldd_dist.sharding.ranks import LostRank
from vldd_dist.store.store import Store
from vldd_dist.testing.scripted_executor import make


class Reports:
    """In place of the queue's actor: drops the reports."""

    actor: Any = SimpleNamespace(put_nowait=SimpleNamespace(remote=lambda message: None))


@pytest.mark.parametrize(
    ("error", "status", "exit_code"),
    [
        (DataError("a.jpg: damaged"), "refused", 4),
        # Another machine may be able to.
        (StoreUnreachable("s3://bucket: no credentials"), "broken", 4),
        (StoreOutage("s3://bucket/x: given up after 60 s"), "unreachable", 4),
        (LostRank("connection closed"), "lost", 1),
        (ImportError("no module"), "broken", 1),
        (ValueError("a bug"), "crashed", 1),
    ],
)
def test_an_error_of_the_unit_becomes_an_outcome(
    error: Exception, status: str, exit_code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def execute(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(worker, "execute", execute)
    found = worker.run_order(make("unit").order(), Store("memory://x"), Reports(), "n1")  # type: ignore[arg-type]
    assert (found.status, found.exit_code) == (status, exit_code)
    assert found.cause.endswith(str(error))


def test_the_first_progress_is_always_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says from where a resumed unit goes on."""

    def execute(order: object, store: object, report: Report, *arguments: object) -> None:
        for done in range(7, 10):
            report(Progress(done, 100))

    monkeypatch.setattr(worker, "execute", execute)
    sent: list[Any] = []
    queue = SimpleNamespace(actor=SimpleNamespace(put_nowait=SimpleNamespace(remote=sent.append)))
    worker.run_order(make("unit").order(), Store("memory://x"), queue, "n1")  # type: ignore[arg-type]
    assert [message["fields"].get("done") for _, message in sent] == [None, 7]
