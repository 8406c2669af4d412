"""A look at a source of data as one self-contained HTML page: no script, no external resource."""

import base64
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined


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
    environment = Environment(
        loader=PackageLoader("vldd_dist.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_uri"] = lambda png: "data:image/png;base64," + base64.b64encode(png).decode()
    return environment.get_template("data.html.j2").render(page=page)
