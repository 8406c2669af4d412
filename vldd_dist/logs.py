"""Log lines of this package on standard error, from workers and driver alike: text with a time stamp, or, with `VLDD_LOG=json`,
one JSON document per line with time, level, unit, attempt, node, message and logger (unit, attempt and node may be null)."""

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

# The fields of the unit that this process runs. They are not per thread, because a process runs one unit in several threads.
_bound: dict[str, str] = {}


def is_json() -> bool:
    """Whether lines are JSON. Raises ConfigError for an unknown value of `VLDD_LOG`."""
    form = os.environ.get(VARIABLE, "text")
    if form not in ("text", "json"):
        raise ConfigError(f"{VARIABLE}={form}: set it to text or json, or unset it")
    return form == "json"


def now_stamp() -> str:
    """The time as in a line of text: local time, to the second."""
    return time.strftime(TIME_STAMP)


@contextmanager
def bound(**fields: str) -> Iterator[None]:
    """Lines that are logged in the `with` block have these fields (`FIELDS`)."""
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
            # Includes the traceback, if there is one.
            "message": super().format(record),
            "logger": record.name,
        }
        return json.dumps(fields)


def _field(record: logging.LogRecord, name: str) -> str | None:
    return getattr(record, name, None) or _bound.get(name)


class _StandardError(logging.StreamHandler):
    """A handler that looks up sys.stderr for each line, because it may be replaced."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> Any:
        return sys.stderr


def start_logging(level: int = logging.INFO) -> None:
    """Print this package's log lines of at least this level. May be called repeatedly.

    Raises:
        ConfigError: `VLDD_LOG` has an unknown value.
    """
    logger = logging.getLogger("vldd_dist")
    handler = next((existing for existing in logger.handlers if isinstance(existing, _StandardError)), None)
    if handler is None:
        logger.addHandler(handler := _StandardError())
    handler.setFormatter(_Json() if is_json() else _Text())
    handler.setLevel(level)
    logger.setLevel(level)
