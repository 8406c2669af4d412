"""The results of a part, in a file that is rewritten with every line, so that a part that is stopped keeps its results."""

import json
import math
import os
import time
from pathlib import Path
from typing import Any

Cell = str | int | float | bool | None


class Notes:
    """The results of one part.

    Args:
        file: a JSON file, whose `status` is "running" until `end`.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.rows: list[dict[str, Cell]] = []
        self.problems: list[str] = []
        self.remarks: list[str] = []
        self._write("running")

    def row(self, **cells: Cell) -> None:
        """Add a line to the part's table."""
        self.rows.append({name: _plain(cell) for name, cell in cells.items()})
        self._write("running")

    def check(self, what: str, found: float, limit: float, **cells: Cell) -> None:
        """Add a line that passes if `found` is at most `limit`; NaN does not pass."""
        holds = found <= limit
        if not holds:
            self.problems.append(f"{what}: {found:.3g}, more than {limit:g}")
        self.row(what=what, found=found, limit=limit, holds=holds, **cells)

    def wrong(self, sentence: str) -> None:
        """Add a problem, which makes the part fail."""
        self.problems.append(sentence)
        self._write("running")

    def remark(self, sentence: str) -> None:
        """Add a remark, which does not make the part fail."""
        self.remarks.append(sentence)
        self._write("running")

    def end(self, status: str) -> None:
        """Write the final status, with the CPU seconds of the part's own process."""
        self._write(status, cpu_seconds=round(time.process_time(), 1))

    def _write(self, status: str, **more: Any) -> None:
        results = {"status": status, "rows": self.rows, "problems": self.problems, "remarks": self.remarks}
        write_json(self.file, results | more)


def write_json(file: Path, value: Any) -> None:
    """Replace the file atomically: a reader sees the old or the new content."""
    temporary = file.with_suffix(".new")
    temporary.write_text(json.dumps(value, allow_nan=False, indent=1))
    os.replace(temporary, file)


def _plain(cell: Cell) -> Cell:
    """The cell with three significant digits; a number that is not finite as text, because JSON has none."""
    if not isinstance(cell, float):
        return cell
    return float(f"{cell:.3g}") if math.isfinite(cell) else str(cell)
