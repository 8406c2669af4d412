"""The command `vldd`, run in this process or in one that says which libraries it loads, and the tables that it prints."""

import re

import pytest

from vldd_dist.cli.main import main

# A process of its own that runs the command: its last line has the exit code, and the libraries that were loaded.
PROGRAM = """
import sys
from vldd_dist.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit as ended:
    print(ended.code, *(name for name in ("torch", "numpy", "ray") if name in sys.modules))
"""


def vldd(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Returns (exit code, output, errors)."""
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    output = capsys.readouterr()
    return int(ended.value.code or 0), output.out, output.err


def table_rows(out: str) -> dict[str, list[str]]:
    """The cells of the printed tables by the first cell of their row."""
    cells = [[cell.strip() for cell in re.split("[│┃]", line)[1:-1]] for line in out.splitlines()]
    return {row[0]: row[1:] for row in cells if row}
