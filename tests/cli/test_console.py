"""Untrusted text that is printed on a terminal: its control characters are escaped."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich import table as rich_table
from rich.live import Live
from rich.markdown import Markdown

from tests.distilled_sets import distilled_set
from vldd_dist.artifacts.manifests import to_json
from vldd_dist.artifacts.runs.run_status import RunStatus, write_status
from vldd_dist.cli.console import SafeConsole, say
from vldd_dist.cli.main import main
from vldd_dist.cli.tables import Format
from vldd_dist.control_characters import escape_controls, one_line
from vldd_dist.distilled_set.manifest import NearestCaptions
from vldd_dist.distilled_set.publishing.write import save
from vldd_dist.distilled_set.reading import read_manifest
from vldd_dist.errors import StoreError
from vldd_dist.events import RunNotice
from vldd_dist.monitoring.live.console import LiveView, PlainView
from vldd_dist.monitoring.live.run_state import RunState
from vldd_dist.monitoring.reports.report_files import write_tables
from vldd_dist.reporting.tables.table import Column, Published, Table, TableRow, TableSection, Text
from vldd_dist.store.objects import ObjectInfo
from vldd_dist.store.store import Store

# Clears the screen, sets the window's title, the same with one-byte introducers, writes right to left, overwrites the line.
HOSTILE = "\x1b[2J\x1b]0;renamed\x07\x9b31m\u202egnp.exe\r\x08"


def is_safe(text: str) -> bool:
    return not set(text) & set("\x1b\x07\x9b\u202e\r\x08")


@given(st.text(st.characters(codec=None)))
def test_what_is_escaped_can_be_written_and_only_controls_are_changed(text: str) -> None:
    escaped = escape_controls(text)
    escaped.encode()
    assert escape_controls(escaped) == escaped
    assert "\n" not in one_line(text)
    if text.isprintable():
        assert escaped == text


def test_a_caption_stays_readable() -> None:
    assert escape_controls("Ein Hund läuft 走る 🐕\u200d🦺\n\tzwei") == "Ein Hund läuft 走る 🐕\u200d🦺\n\tzwei"
    assert one_line("a\x1b[31mb\nc") == "a\\x1b[31mb\\nc"


@pytest.mark.parametrize("terminal", [False, True])
def test_control_sequences_in_console_output_are_escaped(terminal: bool) -> None:
    """For every way of printing, on a terminal with colours."""
    file = io.StringIO()
    console = SafeConsole(file=file, force_terminal=terminal, color_system="standard" if terminal else None, width=200)
    table = rich_table.Table(title=f"title {HOSTILE}")
    table.add_column(f"column {HOSTILE}")
    table.add_row(f"cell {HOSTILE} [/b] :smile:", style="red")
    for printed in (f"text {HOSTILE}", table, Markdown(f"# a {HOSTILE}\n`{HOSTILE}`"), f"[/b] {HOSTILE}"):
        console.print(printed)
    for view in (LiveView(console), PlainView(console)):
        view.event(RunNotice(f"notice {HOSTILE}"), RunState([]))
    said = file.getvalue()
    assert ("\x1b[31m" in said) == terminal
    assert "[/b] :smile:" in said
    for obeyed in ("\x1b[2J", "\x1b]0;", "\x07", "\x9b", "\u202e", "\r", "\x08"):
        assert obeyed not in said


def test_a_live_table_still_moves_the_cursor() -> None:
    file = io.StringIO()
    console = SafeConsole(file=file, force_terminal=True)
    with Live(HOSTILE, console=console, auto_refresh=False, transient=True) as live:
        live.update("two\nlines", refresh=True)
    assert "\x1b[?25l" in file.getvalue()
    assert "\x1b[1A" in file.getvalue()
    assert "\x1b[2J" not in file.getvalue()


def test_an_error_is_one_line_whatever_it_quotes() -> None:
    assert str(StoreError(f"a\nb{HOSTILE}")).isprintable()


def test_say_accepts_characters_that_cannot_be_encoded(capsys: pytest.CaptureFixture[str]) -> None:
    say(f"half \ud800 {HOSTILE}")
    assert is_safe(capsys.readouterr().out)


@pytest.fixture
def hostile_store(store: Store) -> Store:
    """A store with control sequences in the captions and card of a set, the texts of a status, and the cells of a table."""
    shown = distilled_set()
    shown.captions = [NearestCaptions(before=HOSTILE, after=HOSTILE, similarity=0.5)] * len(shown)
    url = store.url_of("distilled/x")
    save(shown, url)
    folder = Store(url)
    card = f"---\nlicense: other\n---\n# {HOSTILE}\n[a link](http://x/\x1b]0;renamed\x07)\n\n| {HOSTILE} |\n|---|\n".encode()
    manifest = read_manifest(folder)
    objects = manifest.objects | {"README.md": ObjectInfo.of("README.md", card)}
    folder.write("README.md", card)
    folder.write("manifest.json", to_json(manifest.model_copy(update={"objects": objects})))
    running = {"label": HOSTILE, "seconds": 1.0, "event": {}}
    text = f"{HOSTILE}\nvldd: all is well"
    status = {
        "experiment": "x",
        "run": "0a1b2c3d",
        "state": "running",
        "running": [running],
        "time_left": text,
        "notices": [text],
    }
    write_status(store, RunStatus.model_validate(status | {"stages": {text: {"total": 1, "done": 0, "failed": 0}}}))
    rows = [TableRow(cells=[Text(text=text), Published(mean=1, source=text)])]
    columns = [Column(key=text, head=text), Column(key="k", head=text, group=text)]
    table = Table(title=text, columns=columns, sections=[TableSection(title=text, rows=rows)], notes=[text])
    write_tables(store, "x", {"recall": table})
    return store


COMMANDS = [*("show", "status", "list"), *(f"{name} --json" for name in ("show", "status", "list"))]


@pytest.mark.parametrize("command", [*COMMANDS, *(f"table --as {form}" for form in get_args(Format))])
def test_control_sequences_from_a_store_are_escaped_by_all_commands(
    hostile_store: Store, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*command.split(), hostile_store.url_of("distilled/x") if "show" in command else hostile_store.url])
    assert ended.value.code == 0
    said = capsys.readouterr()
    assert is_safe(said.out + said.err)
    assert "\nvldd: all is well" not in said.out
    assert "list" in command or "x1b" in said.out or "u001b" in said.out
    assert "--json" not in command or (said.out.isascii() and json.loads(said.out))


def test_a_path_that_looks_like_markup_is_a_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = str(tmp_path / "a[/b]")
    for arguments, code, words in (
        (["run", "jobs/presets/scenes.yaml", "--store", store, "--plan"], 0, "a[/b]"),
        (["status", store], 4, "a[/b]: nothing was ever run with this store"),
        (["list", store], 4, "a[/b]: nothing was ever run with this store"),
        (["show", store], 4, "a[/b]/manifest.json: no such object"),
        (["gc", store, "--min-age-hours", "[/b]"], 2, "'--min-age-hours'"),
        (["[/b]"], 2, "No such command '[/b]'"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        said = capsys.readouterr()
        assert (ended.value.code, words in said.out + said.err) == (code, True)


def test_a_run_goes_on_after_the_reader_of_its_output_has_ended() -> None:
    """`vldd run ... | tee log`: the same Ctrl-C ends `tee`."""
    code = (
        "import time; from vldd_dist.cli.console import RunConsole as C; time.sleep(0.5); c = C(); c.print('a'); c.print('b')"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None  # noqa: PT018
        process.stdout.close()
        assert (process.stderr.read(), process.wait()) == (b"", 0)
