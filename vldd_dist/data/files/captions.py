"""Checking captions that sources read from files of any format."""

import re

from vldd_dist.control_characters import is_text, one_line
from vldd_dist.errors import DataError

# Not str.splitlines, which also splits at characters that a pasted caption may contain, such as U+2028.
_LINE_END = re.compile("\r\n|\r|\n")


class NoCaption(DataError):
    """There is no caption, or only empty ones. In a table, another row of the image may have some."""


def lines_of(text: str) -> list[str]:
    """The lines of a text file, of which some may be empty."""
    return _LINE_END.split(text)


def checked_captions(captions: object, where: str) -> list[str]:
    """The captions without surrounding white space.

    Raises:
        NoCaption: all are empty.
        DataError: there is no list, they are not texts, or one contains a lone surrogate (half a character, which JSON can
            express but UTF-8 cannot).
    """
    if captions is None:
        raise DataError(f"{where}: missing: each image needs a list of captions")
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        raise DataError(f"{where}: expected a list of texts")
    stripped = [caption.strip() for caption in captions if caption.strip()]
    if not stripped:
        raise NoCaption(f"{where}: empty: give at least one caption, or remove the image")
    for caption in stripped:
        if not is_text(caption):
            raise DataError(f"{where}: {one_line(caption)!r} contains half of a surrogate pair: correct the text")
    return stripped
