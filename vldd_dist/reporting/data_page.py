"""A look at a source of data as one self-contained HTML page: no script, no external resource."""

from dataclasses import dataclass

from vldd_dist.reporting.html_environment import html_environment


@dataclass(frozen=True)
class DataPage:
    """Attributes:
    title: names the source.
    columns: the splits.
    rows: name of a figure, and a text for each split.
    notes: sentences below the table.
    examples: for each split its name, and of some images the PNG and a caption.
    """

    title: str
    columns: list[str]
    rows: list[tuple[str, list[str]]]
    notes: list[str]
    examples: list[tuple[str, list[tuple[bytes, str]]]]


def render_data_page(page: DataPage) -> str:
    """The page; all text in it is escaped."""
    return html_environment().get_template("data.html.j2").render(page=page)
