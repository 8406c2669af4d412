"""Making untrusted text safe to print. Otherwise a caption could move a terminal's cursor, rename its window or reverse the
direction of a line.
"""

import re

# C0 except tab and newline, DEL, C1; marks, overrides and isolates of text direction; line separators; lone surrogates, which
# cannot be encoded.
_CONTROLS = "\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff"
_IN_TEXT = re.compile(f"[{_CONTROLS}]")
_IN_LINE = re.compile(f"[\t\n{_CONTROLS}]")


def escape_controls(text: str) -> str:
    """The text with every control character except tab and newline replaced by its escape (`\\x1b`, `\\u202e`)."""
    return _IN_TEXT.sub(_escaped, text)


def one_line(text: str) -> str:
    """The text with every control character replaced by its escape, including tabs and newlines."""
    return _IN_LINE.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape", "surrogatepass").decode("ascii")


def is_text(text: str) -> bool:
    """Whether the text has no lone surrogates, which JSON may contain, and file names that are not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
