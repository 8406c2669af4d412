"""A JSON parser for untrusted data that follows the standard. Python's parser also accepts NaN and lone surrogates, and its
error for deep nesting is not a ValueError.
"""

import json
import math
import re
from itertools import accumulate
from typing import Any

MAX_DEPTH = 64
# Also a string that does not end: if such a match failed, it would be tried again at each quote in it, which takes hours.
_STRINGS = re.compile(rb'"(?:[^"\\]++|\\.?)*+"?', re.DOTALL)
_ALL_BUT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STEP = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


def parse(data: bytes) -> Any:
    """The Python value of a JSON text in UTF-8.

    Raises:
        ValueError: the data is not JSON, nested deeper than `MAX_DEPTH`, or contains a number that is not finite or half a
            surrogate pair. The message is worded to follow the name of a file and a colon.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise ValueError("not JSON: not UTF-8") from None
    brackets = _STRINGS.sub(b"", data).translate(None, _ALL_BUT_BRACKETS)
    if max(accumulate(map(_STEP.__getitem__, brackets)), default=0) > MAX_DEPTH:
        raise ValueError(f"JSON nested deeper than {MAX_DEPTH} levels")
    try:
        tree = json.loads(text, parse_float=_finite, parse_constant=_finite)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}") from None
    if "\\u" in text:
        try:
            json.dumps(tree, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("JSON that contains half a surrogate pair, which is not a character") from None
    return tree


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"JSON that contains a number that is not finite ({text[:20]})")
    return number
