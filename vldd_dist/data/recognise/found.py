"""The result of recognising a path."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Found:
    """What `recognise` has found.

    Attributes:
        source: name and settings of the source, as in a description.
        what: a sentence that says what was found.
    """

    source: dict[str, Any]
    what: str
