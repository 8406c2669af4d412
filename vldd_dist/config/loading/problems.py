"""One sentence for what is wrong with a description, which says how to correct it where that is known."""

import math
import re
import reprlib
from datetime import date
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from vldd_dist.config.base import CREDENTIALS, UNKNOWN_KEY, Section, types_in
from vldd_dist.config.loading.known_keys import dotted, known_keys
from vldd_dist.config.loading.unknown_keys import unknown_key

SHORT = 200
_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = 80

# (type of pydantic's error, kind of field as of `_kind`) -> what to write. A kind without an entry has that of "". `{value}` is
# the value as it was written, `{slug}` a colon and the value as a name; `{listed}` and `{example}` are the list and the number that were
# probably meant, or nothing; `{unquoted}` is how YAML reads a text that needs quotes, or nothing.
SENTENCES = {
    ("list_type", ""): "expected a list{listed}",
    ("model_type", ""): "expected a mapping of settings",
    ("model_type", "optional section"): "expected a mapping of settings, {{}} for the defaults, or null for none",
    ("model_type", "section with kinds"): "expected a mapping of settings: write {{kind: {value}}}",
    ("dict_type", ""): "expected a mapping",
    ("int_type", ""): "expected a whole number{example}",
    ("int_parsing", ""): "expected a whole number{example}",
    ("int_parsing", "seconds"): "expected seconds, without a unit",
    ("int_parsing", "mib"): "expected MiB, without a unit",
    ("int_from_float", ""): "expected a whole number",
    ("float_type", ""): "expected a number{example}",
    ("float_parsing", ""): "expected a number{example}",
    ("float_parsing", "gib"): "expected GiB, without a unit",
    ("float_parsing", "fraction"): "expected a fraction such as 0.05",
    ("string_type", ""): "expected a text{unquoted}",
    ("bool_type", ""): "expected true or false",
    ("bool_parsing", ""): "expected true or false",
    ("string_pattern_mismatch", "name"): "write lower-case letters, digits and dashes{slug}",
    ("string_pattern_mismatch", "language"): "write an ISO 639 code such as en",
}
# The first that fits: true is a number, too.
UNQUOTED = {
    bool: "YAML reads on, off, yes and no as true or false",
    int | float: "YAML reads it as a number",
    date: "YAML reads it as a date",
}
UNITS = ("seconds", "mib", "gib", "fraction")


def first_problem(error: ValidationError) -> str:
    """One sentence for the first problem of a description, with the number of further problems."""
    problems = error.errors(include_url=False)
    first, told = problems[0], 1
    # Of a key of a mapping, pydantic gives the key and `[key]`, which the file does not have.
    location = first["loc"][:-2] if first["loc"][-1:] == ("[key]",) else first["loc"]
    key = ".".join(short(str(part)) for part in location)
    if first["type"] == UNKNOWN_KEY:
        sentence, told = unknown_key(problems)
    elif first["type"] == "missing":
        sentence = f"{key}: missing: set it in the file or with --set {key}=..."
    else:
        message = _mend(first["type"], dotted(first["loc"]), first["input"])
        message = message or short(first["msg"].removeprefix("Value error, "))
        # The whole of a section would hide the sentence.
        hidden = isinstance(first["input"], dict) or first["type"] == CREDENTIALS
        found = "" if hidden else f" (found {_repr.repr(first['input'])})"
        sentence = f"{key}: {message}{found}" if key else message
    return sentence + (f" (and {len(problems) - told} more)" if len(problems) > told else "")


def short(text: str) -> str:
    """The text, cut to a length that fits in a sentence."""
    return text if len(text) <= SHORT else f"{text[:SHORT]}..."


def _mend(error_type: str, key: str, value: Any) -> str | None:
    """The sentence of `SENTENCES`; None if it has none."""
    sentence = SENTENCES.get((error_type, _kind(key, known_keys().get(key)))) or SENTENCES.get((error_type, ""))
    if sentence is None:
        return None
    slug = re.sub(r"[^a-z0-9]+", "-", str(value).lower()).strip("-")
    # Nothing is left of a name in another alphabet.
    slug = f": {short(slug)}" if slug else ""
    listed = "" if value is None else f": write [{short(str(value))}]"
    unquoted = next((f": {meaning}: write it in quotes" for kind, meaning in UNQUOTED.items() if isinstance(value, kind)), "")
    return sentence.format(value=short(str(value)), slug=slug, listed=listed, example=_example(value), unquoted=unquoted)


def _kind(key: str, field: FieldInfo | None) -> str:
    leaf = key.rpartition(".")[2]
    if leaf in ("name", "language"):
        return leaf
    types = types_in(field.annotation) if field else set()
    sections = [one for one in types if isinstance(one, type) and issubclass(one, Section)]
    if sections:
        return "section with kinds" if "kind" in sections[0].model_fields else "optional section" if type(None) in types else ""
    return next((unit for unit in UNITS if leaf.endswith(f"_{unit}")), "")


def _example(value: Any) -> str:
    """`: write 1000` for 1e3, which YAML reads as text, and `: write 224` for [224, 224]; otherwise nothing."""
    if isinstance(value, list) and value and value.count(value[0]) == len(value):
        return f": write {short(str(value[0]))}"
    try:
        number = float(value) if isinstance(value, str) else math.nan
    except ValueError:
        return ""
    return f": write {short(str(int(number)))}" if number.is_integer() else ""
