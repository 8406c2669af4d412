"""`vldd table`: the tables of a report in four formats, and a one-sentence error if there is no report; `vldd published`."""

import csv
import io
import json
import subprocess
import sys
from typing import Any

import pytest

from tests.cli.command import PROGRAM, vldd
from tests.reporting.sample import report
from tests.reporting.sample_table import table
from vldd_dist.monitoring.reports.report_files import key_of, write_tables
from vldd_dist.reporting.tables.recall_table import recall_table
from vldd_dist.store.store import Store


@pytest.fixture
def vldd_table(store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """(exit code, output, error) of `vldd table` on the store, in a wide terminal."""
    monkeypatch.setenv("COLUMNS", "160")
    return lambda *arguments: vldd("table", store.url, *arguments, capsys=capsys)


def test_each_form_of_one_report(store: Store, vldd_table: Any) -> None:
    write_tables(store, "scenes", {"recall": recall_table(report())})
    for arguments, words in (
        ((), "10.0 ±0.8"),
        (("--as", "terminal"), "full data"),
        (("scenes", "--as", "markdown"), "|  | distilled | **10.0 ±0.8** |"),
        (("--as", "latex", "--table", "recall"), r" & distilled & \textbf{10.0 $\pm$ 0.8} &"),
    ):
        code, out, _ = vldd_table(*arguments)
        assert code == 0
        assert words in out
    _, out, _ = vldd_table("--as", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["method"] for row in rows[:3]] == ["full data", "random", "distilled"]
    assert float(rows[1]["mean"]) == 5.0
    assert store.read("report/scenes/table.md").decode() == vldd_table("--as", "markdown")[1]


def test_of_several_reports_one_is_named(store: Store, vldd_table: Any) -> None:
    for name in ("first", "second"):
        write_tables(store, name, {"recall": table(title=f"of {name}")})
    assert vldd_table()[0] == 2
    assert "has the reports of first, second: name one of them" in vldd_table()[2]
    assert "of second" in vldd_table("second")[1]
    code, _, err = vldd_table("../second")
    assert (code, "has no report of ../second: it has first, second" in err) == (2, True)


def test_several_tables_of_one_report(store: Store, vldd_table: Any) -> None:
    write_tables(store, "study", {"one": table(title="1"), "two": table(title="2 | 2")})
    out = vldd_table("--as", "markdown")[1]
    assert out.index("## 1\n") < out.index("## 2 \\| 2\n")
    assert vldd_table("--as", "latex")[1].count(r"\begin{tabular}") == 2
    code, _, err = vldd_table("--as", "csv")
    assert (code, "--as csv: prints one table, and the report has one, two: name one with --table" in err) == (2, True)
    assert vldd_table("--as", "csv", "--table", "two")[0] == 0
    assert "--table three: there is no such table: the report has one, two" in vldd_table("--table", "three")[2]


def test_a_store_without_a_report(vldd_table: Any) -> None:
    code, _, err = vldd_table()
    assert code == 4
    assert "no report is in this store: run an experiment with --store" in err


def test_a_report_of_which_nothing_is_measured_yet(store: Store, vldd_table: Any) -> None:
    write_tables(store, "scenes", {})
    assert vldd_table()[0] == 4
    assert "the report has no table yet, because no student has been evaluated" in vldd_table()[2]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"{", "not JSON"),
        (b'{"tables": {"recall": 1}}', "tables.recall: Input should be"),
        (json.dumps({"tables": {"recall": {"title": "", "columns": [], "sections": []}}}).encode(), "tables.recall.columns"),
    ],
)
def test_a_damaged_report_is_a_one_sentence_error(store: Store, vldd_table: Any, data: bytes, words: str) -> None:
    store.write(key_of("scenes", "tables.json"), data)
    code, out, err = vldd_table()
    assert (code, out) == (4, "")
    assert "report/scenes/tables.json: " in err
    assert words in err
    assert err.count("\n") == 1


def test_published_tables_are_listed_and_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert "\nlors-flickr30k: LoRS" in vldd("published", capsys=capsys)[1]
    code, out, _ = vldd("published", "lors-flickr30k", "--as", "markdown", capsys=capsys)
    assert code == 0
    assert "| 100 | nfnet-bert | distilled | 27.4 \\[1\\] |" in out
    assert "arXiv 2406.03793" in out
    code, _, err = vldd("published", "lors-flikr30k", capsys=capsys)
    assert (code, "did you mean 'lors-flickr30k'?" in err) == (2, True)


def test_a_store_has_to_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = vldd("table", capsys=capsys)
    assert (code, "Missing argument 'STORE'" in err) == (2, True)


def test_neither_torch_nor_ray_is_loaded(store: Store) -> None:
    """Importing them takes seconds, and reading a store does not need them."""
    write_tables(store, "scenes", {"recall": recall_table(report())})
    program = [sys.executable, "-c", PROGRAM, "table", store.url, "--as", "markdown"]
    said = subprocess.run(program, capture_output=True, text=True, check=True).stdout
    assert "full data" in said
    assert said.splitlines()[-1] == "0"
