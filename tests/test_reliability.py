"""docs/reliability.md and SECURITY.md: each test that they name exists, and each row names one."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = {name: (ROOT / name).read_text() for name in ("docs/reliability.md", "SECURITY.md")}
NAMED = re.compile(r"`(tests/[\w/]+\.py)(?:::(test_\w+))?`")
NAMES = sorted({(file, name) for page in PAGES.values() for file, name in NAMED.findall(page)})
HEADINGS = ("| | promise |", "| fault |", "| | what |")


@pytest.mark.parametrize(("file", "name"), NAMES, ids=["::".join(one) for one in NAMES])
def test_each_named_test_exists(file: str, name: str) -> None:
    path = ROOT / file
    assert path.is_file()
    functions = {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}
    assert not name or name in functions


@pytest.mark.parametrize("page", PAGES)
def test_each_row_names_a_test(page: str) -> None:
    rows = [line for line in PAGES[page].splitlines() if line.startswith("| ") and not line.startswith(HEADINGS)]
    assert len(rows) > 10
    assert [row for row in rows if row.count(" | ") != 2] == [], "a row says what happens and names its tests, no more"
    assert [row for row in rows if not NAMED.search(row.strip("| ").rpartition(" | ")[2])] == []
    assert re.findall(r"\btest_\w+", NAMED.sub("", PAGES[page])) == [], "written in another way"
