"""Reports on their way from workers to the driver, through Ray's queue.

They travel as plain dicts: the queue's process, and a worker in which our modules cannot be imported, need none of our classes.

    {"report": "Progress", "node": NODE, "fields": {"done": 5, ...}}    a report, from `worker`
    {"ended": {"status": ..., ...}}                                     the outcome of a process that ends itself, from `start`
"""

from dataclasses import asdict
from typing import Any, get_args

from vldd_dist.events import UnitReport, UnitReported
from vldd_dist.pipeline.outcome import Outcome

_REPORTS = {kind.__name__: kind for kind in get_args(UnitReport)}


def encode(report: UnitReport, node: str) -> dict[str, Any]:
    return {"report": type(report).__name__, "node": node, "fields": asdict(report)}


def decode(unit_id: str, message: dict[str, Any]) -> UnitReported | Outcome:
    """What a message says of the unit: a report, or how its attempt ended."""
    if "ended" in message:
        return Outcome(**message["ended"])
    return UnitReported(unit_id, _REPORTS[message["report"]](**message["fields"]), message["node"])
