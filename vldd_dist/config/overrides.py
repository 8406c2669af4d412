"""Setting one key of a description before it is checked, for `--set` and for the variants of a study."""

import copy
from collections.abc import Iterable
from typing import Any

# `section.key`, with one or more sections.
Key = str
# Mappings that are one value, not a section.
WHOLE_VALUES = ("model_args", "splits")
# Sections that are written as the name of their kind, not of a plug-in.
SECTIONS_WITH_KINDS = ("similarity",)


def names_first(changes: Iterable[tuple[Key, Any]]) -> list[tuple[Key, Any]]:
    """The changes of one place (a command line, a variant) in the order in which they are applied: the name of a plug-in before
    the first of its settings, so that `--set data.source.images=...` may come before `--set data.source=karpathy`; otherwise as
    given."""
    ordered = list(changes)
    for change in tuple(ordered):
        key, value = change
        position = ordered.index(change)
        first = next((place for place, (other, _) in enumerate(ordered) if other.startswith(f"{key}.")), position)
        if isinstance(value, str) and first < position:
            ordered.insert(first, ordered.pop(position))
    return ordered


def set_key(tree: dict[str, Any], key: Key, value: Any) -> None:
    """Set `section.key` in the tree; missing sections are created.

    Raises:
        ValueError: a part of the key is empty, one of its sections is a value or null, or the value is a section without some of the
            keys that are set now, which would silently fall back to their defaults.
    """
    *sections, leaf = key.split(".")
    if not all([*sections, leaf]):
        raise ValueError("expected section.key")
    node = tree
    for depth, section in enumerate(sections, 1):
        if node is not tree and isinstance(node.get(section), str):
            # A plug-in or a kind that is written as its name.
            node[section] = {"kind" if section in SECTIONS_WITH_KINDS else "name": node[section]}
        node = node.setdefault(section, {})
        if node is None:
            whole, inside = ".".join(sections[:depth]), [*sections, leaf][depth]
            raise ValueError(f"{section} is null: write {whole}={{{inside}: ...}}")
        if not isinstance(node, dict):
            raise ValueError(f"{section} is a value, not a section")
    if lost := _lost_keys(node.get(leaf), value, leaf):
        more = f" and {len(lost) - 2} more" if len(lost) > 2 else ""
        inside = lost[0].rpartition(".")[0]
        mend = f"give all keys of {key}.{inside}" if inside else f"write {key}.{next(iter(value))}, or give all keys"
        raise ValueError(f"would reset {', '.join(lost[:2])}{more} to the default: {mend}")
    # A copy, because a later change may be of a key inside it.
    node[leaf] = copy.deepcopy(value)


def _lost_keys(old: Any, new: Any, name: str) -> list[Key]:
    """The keys that a mapping has and the one in its place lacks. None if the new one is empty, which asks for the defaults, or
    names a plug-in or another kind."""
    if not (isinstance(old, dict) and isinstance(new, dict) and new) or name in WHOLE_VALUES or _chooses(old, new):
        return []
    inner = [f"{key}.{lost}" for key in old if key in new for lost in _lost_keys(old[key], new[key], key)]
    return [*(key for key in old if key not in new), *inner]


def _chooses(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Whether a mapping says what has these keys: a plug-in by its name, or, in place of another plug-in, as an initialisation of
    images and texts; or another kind, which has other keys."""
    other_kind = "kind" in new and new["kind"] != old.get("kind")
    return "name" in new or other_kind or ("name" in old and not new.keys().isdisjoint(("images", "texts")))
