"""The messages that workers send to the driver through Ray's queue.

They are plain dicts, so that neither the queue's process nor a worker in which our modules cannot be imported needs our
classes:

    {"report": "Progress", "node": NODE, "fields": {"done": 5, ...}}    a report, from `worker`; `WorkerStarted` from `start`
    {"ended": {"status": ..., ...}, "rank": 0}                          the outcome of a process that exits, from `start`
"""

from dataclasses import asdict
from typing import Any, NamedTuple, get_args

from vldd_dist.events import UnitReport, UnitReported
from vldd_dist.pipeline.outcome import Outcome

_REPORTS = {kind.__name__: kind for kind in get_args(UnitReport)}


class RankEnded(NamedTuple):
    """The outcome that the process of a rank sent before it exited; the only process of a unit is rank 0."""

    rank: int
    outcome: Outcome


def encode(report: UnitReport, node: str) -> dict[str, Any]:
    return {"report": type(report).__name__, "node": node, "fields": asdict(report)}


def decode(unit_id: str, message: dict[str, Any]) -> UnitReported | RankEnded:
    """A message as a report of the unit, or as the end of one of its processes."""
    if "ended" in message:
        return RankEnded(message["rank"], Outcome(**message["ended"]))
    return UnitReported(unit_id, _REPORTS[message["report"]](**message["fields"]), message["node"])
