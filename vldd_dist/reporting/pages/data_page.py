"""The page that `vldd data --out` writes about a source: one self-contained HTML file without scripts or external resources."""

from dataclasses import dataclass

from vldd_dist.reporting.pages.html_environment import html_environment


@dataclass(frozen=True)
class DataPage:
    """What the page shows.

    Attributes:
        title: names the source.
        columns: the names of the splits.
        rows: (name of a figure, a text for each split).
        notes: sentences below the table.
        examples: (name of a split, [(image as PNG or JPEG, caption), ...]).
    """

    title: str
    columns: list[str]
    rows: list[tuple[str, list[str]]]
    notes: list[str]
    examples: list[tuple[str, list[tuple[bytes, str]]]]


def render_data_page(page: DataPage) -> str:
    """The page as HTML. All text in it is escaped."""
    return html_environment().get_template("data.html.j2").render(page=page)
