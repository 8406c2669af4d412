"""Log lines of this package on standard error, of workers and driver alike: text with a time stamp, or with `VLDD_LOG=json` one
JSON document a line with time, level, unit, attempt, node, message and logger (unit, attempt and node are null where there is
none)."""

import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from vldd_dist.control_characters import escape_controls
from vldd_dist.errors import ConfigError

VARIABLE = "VLDD_LOG"
FIELDS = ("unit", "attempt", "node")
TIME_STAMP = "%Y-%m-%d %H:%M:%S"

# Of what this process works on. A process runs one unit at a time, in several threads.
_bound: dict[str, str] = {}


def is_json() -> bool:
    """Whether lines are JSON. Raises ConfigError for an unknown value of `VLDD_LOG`."""
    wanted = os.environ.get(VARIABLE, "text")
    if wanted not in ("text", "json"):
        raise ConfigError(f"{VARIABLE}={wanted}: write text or json, or leave it out")
    return wanted == "json"


def now_stamp() -> str:
    """The time in a line of text: local, to the second."""
    return time.strftime(TIME_STAMP)


@contextmanager
def bound(**fields: str) -> Iterator[None]:
    """Lines that are logged meanwhile carry these fields (`FIELDS`)."""
    before = dict(_bound)
    _bound.update(fields)
    try:
        yield
    finally:
        _bound.clear()
        _bound.update(before)


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        unit = _field(record, "unit")
        return escape_controls(f"{self.formatTime(record, TIME_STAMP)} {unit + ': ' if unit else ''}{super().format(record)}")


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            **{name: _field(record, name) for name in FIELDS},
            # With the traceback, if there is one.
            "message": super().format(record),
            "logger": record.name,
        }
        return json.dumps(fields)


def _field(record: logging.LogRecord, name: str) -> str | None:
    return getattr(record, name, None) or _bound.get(name)


class _StandardError(logging.StreamHandler):
    """Looks up sys.stderr at each line, since it may be replaced."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> Any:
        return sys.stderr


def start_logging(level: int = logging.INFO) -> None:
    """Print this package's lines from this level on. May be called again.

    Raises:
        ConfigError: `VLDD_LOG` has an unknown value.
    """
    logger = logging.getLogger("vldd_dist")
    handler = next((known for known in logger.handlers if isinstance(known, _StandardError)), None)
    if handler is None:
        logger.addHandler(handler := _StandardError())
    handler.setFormatter(_Json() if is_json() else _Text())
    handler.setLevel(level)
    logger.setLevel(level)
