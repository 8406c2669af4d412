"""A table in LaTeX, with rules of the package booktabs."""

import re

from vldd_dist.reporting.tables.table import Shown, Table, shown

_ESCAPES = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "→": r"$\rightarrow$",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    # In braces, because LaTeX reads a bracket after `\\` as a length.
    "[": "{[}",
    "]": "{]}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}
_SPECIAL = re.compile("|".join(map(re.escape, _ESCAPES)))


def latex(table: Table) -> str:
    """A `table` environment with the title and the notes as its caption. The document needs only the package booktabs."""
    table, marks = table.without_repeats().without_details(), table.sources()
    body: list[str] = []
    for title, section in table.titled_sections():
        body.append(r"\midrule")
        if title:
            body.append(rf"\multicolumn{{{len(table.columns)}}}{{l}}{{\emph{{{escape(title)}}}}} \\")
        body += [_line([_cell(shown(cell, marks)) for cell in row.cells]) for row in section.rows]
    sentence = "" if table.title.endswith(".") else "."
    lines = [
        "% \\usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{' '.join([escape(table.title) + sentence, *map(escape, table.all_notes())])}}}",
        rf"\begin{{tabular}}{{{''.join('r' if column.figures else 'l' for column in table.columns)}}}",
        r"\toprule",
        *_group_heads(table),
        _line([escape(column.head) for column in table.columns]),
        *body,
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join([*lines, ""])


def escape(text: str) -> str:
    """The text with special characters escaped."""
    return _SPECIAL.sub(lambda match: _ESCAPES[match[0]], text)


def _group_heads(table: Table) -> list[str]:
    """The row of group headings and the rules below them; empty if there are no groups."""
    groups, heads, rules, first = table.head_groups(), [], [], 1
    for group, width in groups:
        heads.append(rf"\multicolumn{{{width}}}{{c}}{{{escape(group)}}}" if group else " & ".join([""] * width))
        if group:
            rules.append(rf"\cmidrule(lr){{{first}-{first + width - 1}}}")
        first += width
    return [_line(heads), " ".join(rules)] if rules else []


def _line(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"


def _cell(cell: Shown) -> str:
    figure = escape(cell.main) + (rf" $\pm$ {cell.spread}" if cell.spread else "")
    return (rf"\textbf{{{figure}}}" if cell.best else figure) + (f" {escape(cell.mark)}" if cell.mark else "")
