"""Log lines for users and for programs."""

import json
import logging
import re
from io import StringIO
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from vldd_dist.artifacts.units import mark_store
from vldd_dist.errors import ConfigError
from vldd_dist.events import UnitFailed, UnitStarted
from vldd_dist.logs import bound, start_logging
from vldd_dist.monitoring.live.console import LogView, PlainView, make_view
from vldd_dist.monitoring.live.run_state import RunState
from vldd_dist.ray_backend.workers import worker
from vldd_dist.store.store import Store
from vldd_dist.testing.scripted_executor import make

KEYS = ["time", "level", "unit", "attempt", "node", "message", "logger"]
STAMP = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"


@pytest.fixture(autouse=True)
def restored() -> Any:
    logger = logging.getLogger("vldd_dist")
    before = list(logger.handlers), logger.level
    logger.handlers = []
    yield
    logger.handlers, logger.level = before


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_log_line_has_the_unit_attempt_and_node(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("VLDD_LOG", "json")
    start_logging()
    start_logging()
    logger = logging.getLogger("vldd_dist.anything")
    with bound(unit="expert 0", node="n"), bound(attempt="0123abcd"):
        logger.warning("two\nlines \x1b[2J")
    logger.info("after")
    first, last = lines(capsys)
    assert list(first) == KEYS
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:]+\.\d{3}\+00:00", first["time"])
    assert [first[key] for key in KEYS[1:6]] == ["warning", "expert 0", "0123abcd", "n", "two\nlines \x1b[2J"]
    assert [last[key] for key in KEYS[1:6]] == ["info", None, None, None, "after"]


def test_a_line_for_users_has_the_time_and_escapes_control_characters(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("VLDD_LOG", raising=False)
    start_logging(logging.WARNING)
    logging.getLogger("vldd_dist.x").info("not told")
    with bound(unit="expert 0"):
        logging.getLogger("vldd_dist.x").warning("look \x1b[2J")
    assert re.fullmatch(STAMP + r" expert 0: look \\x1b\[2J\n", capsys.readouterr().err)
    monkeypatch.setenv("VLDD_LOG", "xml")
    with pytest.raises(ConfigError, match="VLDD_LOG=xml: set it to text or json"):
        start_logging()


def test_a_run_is_logged_in_lines_of_either_kind(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("VLDD_LOG", "json")
    start_logging()
    assert isinstance(make_view(Console(force_terminal=True)), LogView)
    text, unit = StringIO(), make("expert 0")
    state = RunState([LogView(), PlainView(Console(file=text, width=100))])
    state.begin([unit], set())
    state.event(UnitStarted(unit.id))
    state.event(UnitFailed(unit.id, "refused", "no data"))
    told = lines(capsys)
    assert [(line["level"], line["unit"]) for line in told] == [("info", None), ("info", "expert 0"), ("warning", "expert 0")]
    for line, plain in zip(told, text.getvalue().splitlines(), strict=True):
        assert re.fullmatch(f"{STAMP} {re.escape(line['message'])}", plain)


def test_a_worker_names_unit_attempt_and_node(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(context: Any) -> None:
        logging.getLogger("vldd_dist.stage").warning("so far")
        raise ZeroDivisionError("by nought")

    mark_store(store)
    monkeypatch.setenv("VLDD_LOG", "json")
    monkeypatch.setattr("vldd_dist.pipeline.execute.stage_of", lambda kind: SimpleNamespace(version=1, run=fails))
    queue = SimpleNamespace(actor=SimpleNamespace(put_nowait=SimpleNamespace(remote=lambda message: None)))
    answer = worker.run_checked(make("expert 0").order(), store, queue, "node-1", None, 0)
    assert answer["status"] == "crashed"
    told = lines(capsys)
    assert [line["message"].split()[0] for line in told] == ["attempt", "so", "failed", "ended:"]
    assert {(line["unit"], line["node"]) for line in told} == {("expert 0", "node-1")}
    assert told[0]["attempt"] == told[1]["attempt"] == told[0]["message"].split()[1]
    assert "ZeroDivisionError: by nought" in told[2]["message"]
