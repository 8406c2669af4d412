"""The Jinja environment of the HTML pages."""

import base64

from jinja2 import Environment, PackageLoader, StrictUndefined

from vldd_dist.reporting.durations import duration
from vldd_dist.reporting.pages.pictures import is_png, is_small


def html_environment() -> Environment:
    """An environment that escapes all text and raises for undefined names.

    Filters: `data_uri` and `is_small` for images, `duration` for seconds.
    """
    environment = Environment(
        loader=PackageLoader("vldd_dist.reporting.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"data_uri": _data_uri, "is_small": is_small, "duration": duration}
    return environment


def _data_uri(picture: bytes) -> str:
    kind = "png" if is_png(picture) else "jpeg"
    return f"data:image/{kind};base64," + base64.b64encode(picture).decode()
