"""A Markdown table of the fields of a section, generated from their types, defaults and descriptions."""

import json
from typing import Any

from vldd_dist.config.base import LARGEST, Plugin, Section

LIMITS = {"minimum": "≥ {}", "exclusiveMinimum": "> {}", "maximum": "≤ {}", "exclusiveMaximum": "< {}"}
# Role of a field -> sentence about its effect on the output.
ROLES = {
    "how to run": "Does not change the output.",
    "location": "The content determines the output, not the location.",
}
NAMES = {"integer": "integer", "number": "number", "string": "text", "boolean": "true or false", "object": "mapping"}


def fields_table(section: type[Section], leave_out: frozenset[str] = frozenset()) -> str:
    """The table; empty if there are no fields.

    Args:
        leave_out: names of fields that are described elsewhere.
    """
    schema = section.model_json_schema()
    rows = [
        _row(section, name, schema["properties"][name], schema.get("$defs", {}))
        for name in section.model_fields
        if name not in leave_out
    ]
    head = ["| key | value | default | description |", "|:---|:---|:---|:---|"]
    return "\n".join([*head, *rows]) + "\n" if rows else ""


def _row(section: type[Section], name: str, schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    field = section.model_fields[name]
    default = "required" if field.is_required() else f"`{shown(field.get_default(call_default_factory=True))}`"
    text = field.description or ""
    extra = field.json_schema_extra
    if isinstance(extra, dict) and (role := extra.get("role")):
        text += f" *{ROLES[str(role)]}*"
    cells = (f"`{name}`", values(schema, definitions), default, text)
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def shown(value: Any) -> str:
    """A default value as it is written in a description."""
    if value is None:
        return "null"
    if isinstance(value, Plugin):
        return value.label
    if isinstance(value, Section):
        return json.dumps(value.model_dump(mode="json", exclude_defaults=True))
    if isinstance(value, list):
        return "[" + ", ".join(map(shown, value)) + "]"
    return value if isinstance(value, str) and value else json.dumps(value)


def values(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    """The values that a key accepts, from its JSON schema."""
    if "$ref" in schema:
        definition = definitions[schema["$ref"].rpartition("/")[2]]
        return "mapping" if "properties" in definition else values(definition, definitions)
    if choices := schema.get("enum"):
        return ", ".join(f"`{shown(choice)}`" for choice in choices)
    if "const" in schema:
        return f"`{shown(schema['const'])}`"
    if alternatives := schema.get("anyOf"):
        return " or ".join(dict.fromkeys(values(alternative, definitions) for alternative in alternatives))
    kind = schema.get("type")
    if kind == "null":
        return "null"
    if kind == "array":
        items = schema.get("prefixItems") or [schema.get("items", {})]
        return "list of " + " or ".join(dict.fromkeys(values(item, definitions) for item in items))
    limits = ", ".join(text.format(schema[key]) for key, text in LIMITS.items() if abs(schema.get(key, LARGEST)) < LARGEST)
    # A field that holds a plug-in has no type here, because the plug-in's own class validates it.
    type_name = NAMES[kind] if kind else "a name, or a mapping"
    return f"{type_name} {limits}".strip()
