"""The templates of the HTML pages."""

import base64

from jinja2 import Environment, PackageLoader, StrictUndefined


def html_environment() -> Environment:
    """Escapes all text; a name that a template misses is an error. `data_uri` is a filter for PNG bytes."""
    environment = Environment(
        loader=PackageLoader("vldd_dist.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_uri"] = lambda png: "data:image/png;base64," + base64.b64encode(png).decode()
    return environment
