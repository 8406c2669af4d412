"""The values of a table, and its output in each format."""

import csv
import io
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from pydantic import ValidationError
from rich.console import Console

from tests.reporting.sample import report
from tests.reporting.sample_table import HOSTILE, PAPER, table
from vldd_dist.reporting.tables.recall_table import recall_table
from vldd_dist.reporting.tables.renderers.csv import csv_text
from vldd_dist.reporting.tables.renderers.latex import latex
from vldd_dist.reporting.tables.renderers.markdown import markdown
from vldd_dist.reporting.tables.renderers.terminal import TerminalTable
from vldd_dist.reporting.tables.table import Statistic, Table, TableSection, Text


def test_a_table_round_trips_through_json() -> None:
    assert Table.model_validate_json(table().model_dump_json()) == table()


def test_rows_that_do_not_fit_the_columns_are_refused() -> None:
    with pytest.raises(ValidationError, match="a row has 5 cells in a table of 1 columns"):
        Table(title="", columns=table().columns[:1], sections=table().sections)
    with pytest.raises(ValidationError, match="two columns have the key 'pairs'"):
        Table(title="", columns=[table().columns[0]] * 5, sections=table().sections)
    with pytest.raises(ValidationError, match="finite"):
        Statistic(mean=float("nan"))


def test_text_is_one_line() -> None:
    assert Text(text=" a\n\tb\r\x0bc ").text == "a b c"


def test_the_spread_over_runs_is_shown_before_that_over_students() -> None:
    assert Statistic(mean=1, std_runs=2, std_students=3).spread == 2
    assert Statistic(mean=1, std_runs=0.0, std_students=3).spread == 0
    assert Statistic(mean=1, std_students=3).spread == 3
    assert Statistic(mean=1).spread is None


def test_markdown_lines_have_equal_numbers_of_cells_and_text_is_escaped() -> None:
    lines = markdown(table()).splitlines()
    cells = [re.split(r"(?<!\\)\|", row)[1:-1] for row in lines[:8]]
    assert {len(row) for row in cells} == {4}
    assert lines[0] == "| pairs | method | Flickr30K TR@1 | Flickr30K IR@1 |"
    assert lines[1] == "|:---|:---|---:|---:|"
    assert lines[2].startswith("| *ours* |")
    assert lines[3] == "| 1,000 | random | 4.0 ±0.2 |  |"
    assert cells[4][1].strip() == r"100% a\_b & #1 {x} ^\~ \\ \| \[2\] \<b\> $5 \*bold\* \`code\`"
    assert cells[4][0].strip() == "", "a number of pairs that repeats"
    assert cells[4][2].strip() == "**16.3 ±0.2**"
    assert cells[5][0].strip() == "2,000", "the title of the section before is not repeated"
    assert cells[7][2].strip() == r"4.0 ±0.3 \[1\]"
    assert lines[8:] == ["", "Percent & more.", "", rf"\[1\] As published: {PAPER}."]


def printed(drawn: Table, width: int) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(TerminalTable(drawn))
    return console.export_text()


@pytest.mark.parametrize("width", [60, 61, 70, 83, 100, 160])
def test_in_a_terminal_words_stay_whole_and_nothing_is_cut_off(width: int) -> None:
    text = printed(table(), width)
    whole = ("Recall_1", "Flickr30K", "ours", "theirs", "random", "16.3", "±0.2", "±0.3", "[1]", "2,000", "method", "IR@1")
    assert [word for word in (*whole, *HOSTILE.split()) if word not in text] == []
    assert text.count("1,000") == 2
    assert "…" not in text
    assert (HOSTILE in text) == (width >= 100)
    assert f"[1] As published: {PAPER}." in " ".join(text.split())


@pytest.mark.parametrize("width", range(40, 130, 6))
def test_a_table_of_many_columns_shows_all_of_every_cell_at_any_width(width: int) -> None:
    """In a narrow terminal cells are broken into several lines, but no text is lost."""
    text = printed(recall_table(report()), width)
    assert text.count("±") == 1 + 7 * 6
    assert max(map(len, text.splitlines())) <= width
    if width >= 90:
        assert all(word in text for word in ("distilled", "nf_resnet50", "±0.8", "2,000"))


def latex_lines(text: str) -> list[str]:
    """The lines between the horizontal rules."""
    return text[text.index(r"\toprule") : text.index(r"\bottomrule")].splitlines()


def test_in_latex_every_line_has_as_many_cells_and_specials_are_escaped() -> None:
    text = latex(table())
    rows = [row for row in latex_lines(text) if row.endswith(r" \\")]
    assert rows[0] == r" &  & \multicolumn{2}{c}{Flickr30K} \\"
    assert rows[1] == r"pairs & method & TR@1 & IR@1 \\"
    assert r"\cmidrule(lr){3-4}" in text
    assert rows[2] == r"\multicolumn{4}{l}{\emph{ours}} \\"
    assert rows[3] == r"1,000 & random & 4.0 $\pm$ 0.2 &  \\"
    assert [len(re.split(r"(?<!\\)&", row)) for row in rows[3:]] == [4, 4, 4, 1, 4]
    escaped = r"100\% a\_b \& \#1 \{x\} \textasciicircum{}\textasciitilde{} \textbackslash{} \textbar{} {[}2{]}"
    assert escaped in rows[4]
    assert r"\textbf{16.3 $\pm$ 0.2}" in rows[4]
    assert r"\caption{Recall\_1. Percent \& more. {[}1{]} As published: Some \& Others" in text
    assert text.count("{") == text.count("}")
    assert text.count(r"\begin{") == text.count(r"\end{") == 2


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX is installed")
def test_latex_compiles(tmp_path: Path) -> None:
    document = "\\documentclass{article}\n\\usepackage{booktabs}\n\\begin{document}\n" + latex(table()) + "\\end{document}\n"
    (tmp_path / "table.tex").write_text(document)
    subprocess.run(["pdflatex", "-halt-on-error", "table.tex"], cwd=tmp_path, check=True, capture_output=True)


def test_csv_has_every_number_in_a_column_of_its_own() -> None:
    rows = list(csv.DictReader(io.StringIO(csv_text(table()))))
    parts = ("std_runs", "std_students", "std_published", "source")
    assert list(rows[0]) == [
        "section",
        "pairs",
        "method",
        "flickr_tr1",
        *(f"flickr_tr1_{part}" for part in parts),
        "flickr_ir1",
        "runs",
    ]
    assert [row["section"] for row in rows] == ["ours", "ours", "ours", "theirs"]
    assert rows[1]["method"] == HOSTILE
    assert (rows[1]["pairs"], rows[1]["flickr_tr1"], rows[1]["flickr_tr1_std_students"]) == ("1000", "16.26", "1.5")
    assert (rows[1]["flickr_tr1_source"], rows[1]["flickr_ir1"], rows[1]["runs"]) == ("", "", "3")
    assert (rows[3]["flickr_tr1_std_runs"], rows[3]["flickr_tr1_std_published"]) == ("", "0.3")
    assert rows[3]["flickr_tr1_source"] == PAPER


def test_csv_of_a_table_without_titles_names_no_section() -> None:
    untitled = [TableSection(rows=section.rows) for section in table().sections[:2]]
    assert csv_text(table(sections=untitled)).startswith("pairs,method,flickr_tr1,flickr_tr1_std_runs,flickr_tr1_std_students,")
