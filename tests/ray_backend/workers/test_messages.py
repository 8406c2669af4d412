"""The messages in Ray's queue."""

import pickle
from dataclasses import asdict

import pytest

from vldd_dist.events import Notice, Progress, UnitReport, UnitReported, WorkerStarted
from vldd_dist.pipeline.outcome import Outcome
from vldd_dist.ray_backend.workers.messages import RankEnded, decode, encode


@pytest.mark.parametrize("report", [WorkerStarted(), Progress(5, None, loss=1.5), Notice("a slow store")])
def test_reports_arrive_as_they_were_sent_and_need_none_of_our_modules_on_the_way(report: UnitReport) -> None:
    message = encode(report, "n1")
    assert b"vldd_dist" not in pickle.dumps(message)
    assert decode("a", message) == UnitReported("a", report, "n1")


def test_a_process_that_ends_itself_sends_its_outcome() -> None:
    outcome = Outcome("broken", "no module", 1, node="n1")
    assert decode("a", {"ended": asdict(outcome), "rank": 3}) == RankEnded(3, outcome)
