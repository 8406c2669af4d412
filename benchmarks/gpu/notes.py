"""What a part has found so far, in a file that is renewed with every line: a part that is cut keeps what it has."""

import json
import math
import os
import time
from pathlib import Path
from typing import Any

Cell = str | int | float | bool | None


class Notes:
    """Args:
    file: JSON; its `status` is "running" until `end`.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.rows: list[dict[str, Cell]] = []
        self.problems: list[str] = []
        self.remarks: list[str] = []
        self._write("running")

    def row(self, **cells: Cell) -> None:
        """A line of the part's table."""
        self.rows.append({name: _plain(cell) for name, cell in cells.items()})
        self._write("running")

    def check(self, what: str, found: float, limit: float, **cells: Cell) -> None:
        """A line that holds where `found` is at most `limit`; NaN does not."""
        holds = found <= limit
        if not holds:
            self.problems.append(f"{what}: {found:.3g}, more than {limit:g}")
        self.row(what=what, found=found, limit=limit, holds=holds, **cells)

    def wrong(self, sentence: str) -> None:
        """Something that must not be."""
        self.problems.append(sentence)
        self._write("running")

    def remark(self, sentence: str) -> None:
        """Something to know."""
        self.remarks.append(sentence)
        self._write("running")

    def end(self, status: str) -> None:
        """With the CPU seconds of the part's own process."""
        self._write(status, cpu_seconds=round(time.process_time(), 1))

    def _write(self, status: str, **more: Any) -> None:
        found = {"status": status, "rows": self.rows, "problems": self.problems, "remarks": self.remarks}
        write_json(self.file, found | more)


def write_json(file: Path, value: Any) -> None:
    """A reader sees the old file or the new one."""
    beside = file.with_suffix(".new")
    beside.write_text(json.dumps(value, allow_nan=False, indent=1))
    os.replace(beside, file)


def _plain(cell: Cell) -> Cell:
    """Three digits, and JSON has no NaN."""
    if not isinstance(cell, float):
        return cell
    return float(f"{cell:.3g}") if math.isfinite(cell) else str(cell)
