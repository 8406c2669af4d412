"""The results as a Markdown page."""

from typing import Any


def page(facts: dict[str, Any], results: list[dict[str, Any]]) -> str:
    """A page with an overview of all parts, and a section for each part."""
    environment = ", ".join(f"{name} {value}" for name, value in facts.items())
    lines = ["# A run of `python -m benchmarks.gpu`", "", environment, "", "| part | kind | result | s |", "|---|---|---|--:|"]
    lines += [f"| {part['title']} | {part['kind']} | {part['status']} | {part['seconds']:g} |" for part in results]
    for part in results:
        lines += ["", f"## {part['title']}", "", f"{part['status']}, {part['seconds']:g} s"]
        lines += [f"- problem: {problem}" for problem in part["problems"]]
        lines += [f"- {remark}" for remark in part.get("remarks", [])]
        if rows := part.get("rows"):
            lines += ["", *table(rows)]
        if log := part.get("log"):
            lines += ["", "```", log.strip(), "```"]
    return "\n".join(lines) + "\n"


def table(rows: list[dict[str, Any]]) -> list[str]:
    """The lines of a table with a column for every name in the rows."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[_text(row.get(name)) for name in names] for row in rows]
    return [f"| {' | '.join(line)} |" for line in (names, ["---"] * len(names), *cells)]


def _text(cell: object) -> str:
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return "yes" if cell else "NO"
    return f"{cell:g}" if isinstance(cell, float) else str(cell).replace("|", "/")
