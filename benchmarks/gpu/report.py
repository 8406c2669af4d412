"""The results as a page."""

from typing import Any


def page(facts: dict[str, Any], results: list[dict[str, Any]]) -> str:
    """Markdown: what was checked, then a section for each part."""
    said = ", ".join(f"{name} {value}" for name, value in facts.items())
    lines = ["# A run of `python -m benchmarks.gpu`", "", said, "", "| part | kind | result | s |", "|---|---|---|--:|"]
    lines += [f"| {one['title']} | {one['kind']} | {one['status']} | {one['seconds']:g} |" for one in results]
    for one in results:
        lines += ["", f"## {one['title']}", "", f"{one['status']}, {one['seconds']:g} s"]
        lines += [f"- not as it should be: {problem}" for problem in one["problems"]]
        lines += [f"- {remark}" for remark in one.get("remarks", [])]
        if rows := one.get("rows"):
            lines += ["", *table(rows)]
        if log := one.get("log"):
            lines += ["", "```", log.strip(), "```"]
    return "\n".join(lines) + "\n"


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Its lines; a column for every name that a row has."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[_said(row.get(name)) for name in names] for row in rows]
    return [f"| {' | '.join(line)} |" for line in (names, ["---"] * len(names), *cells)]


def _said(cell: object) -> str:
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return "yes" if cell else "NO"
    return f"{cell:g}" if isinstance(cell, float) else str(cell).replace("|", "/")
