"""A table of the fields of a section of the description, from the descriptions on the fields themselves."""

import json
from typing import Any

from vldd_dist.config.base import LARGEST, Plugin, Section

LIMITS = {"minimum": "≥ {}", "exclusiveMinimum": "> {}", "maximum": "≤ {}", "exclusiveMaximum": "< {}"}
NAMES = {"integer": "integer", "number": "number", "string": "text", "boolean": "true or false", "object": "mapping"}


def fields_table(section: type[Section], leave_out: frozenset[str] = frozenset()) -> str:
    """Markdown; empty where there is no field.

    Args:
        leave_out: names of fields that stand elsewhere.
    """
    schema = section.model_json_schema()
    rows = [
        _row(section, name, schema["properties"][name], schema.get("$defs", {}))
        for name in section.model_fields
        if name not in leave_out
    ]
    head = ["| key | value | default | what it is |", "|:---|:---|:---|:---|"]
    return "\n".join([*head, *rows]) + "\n" if rows else ""


def _row(section: type[Section], name: str, found: dict[str, Any], definitions: dict[str, Any]) -> str:
    field = section.model_fields[name]
    default = "required" if field.is_required() else f"`{shown(field.get_default(call_default_factory=True))}`"
    text = field.description or ""
    extra = field.json_schema_extra
    if isinstance(extra, dict) and extra.get("role"):
        text += " *Does not change the output.*"
    return (
        "| " + " | ".join(cell.replace("|", r"\|") for cell in (f"`{name}`", values(found, definitions), default, text)) + " |"
    )


def shown(value: Any) -> str:
    """A default as a description would have it."""
    if value is None:
        return "none"
    if isinstance(value, Plugin):
        return value.label
    if isinstance(value, Section):
        return json.dumps(value.model_dump(mode="json", exclude_defaults=True))
    if isinstance(value, list):
        return "[" + ", ".join(map(shown, value)) + "]"
    return value if isinstance(value, str) and value else json.dumps(value)


def values(found: dict[str, Any], definitions: dict[str, Any]) -> str:
    """What a key takes, of its JSON schema."""
    if "$ref" in found:
        name = found["$ref"].rpartition("/")[2]
        of_it = definitions[name]
        return "mapping" if "properties" in of_it else values(of_it, definitions)
    if choices := found.get("enum"):
        return ", ".join(f"`{shown(choice)}`" for choice in choices)
    if "const" in found:
        return f"`{shown(found['const'])}`"
    if some := found.get("anyOf"):
        return " or ".join(dict.fromkeys(values(one, definitions) for one in some))
    kind = found.get("type")
    if kind == "null":
        return "none"
    if kind == "array":
        items = found.get("prefixItems") or [found.get("items", {})]
        return "list of " + " or ".join(dict.fromkeys(values(one, definitions) for one in items))
    limits = ", ".join(text.format(found[key]) for key, text in LIMITS.items() if abs(found.get(key, LARGEST)) < LARGEST)
    # A plug-in is validated by its own class, of which this schema knows nothing.
    named = NAMES[kind] if kind else "a name, or a mapping"
    return f"{named} {limits}".strip()
