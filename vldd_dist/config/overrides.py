"""Setting one key of a description before it is checked, for `--set` and for the variants of a study."""

import copy
from collections.abc import Iterable
from typing import Any

# `section.key`, with one or more sections.
Key = str


def names_first(changes: Iterable[tuple[Key, Any]]) -> list[tuple[Key, Any]]:
    """The changes of one place (a command line, a variant) in the order in which they are applied: the name of a plug-in before
    its settings, so that `--set data.source.images=...` may come before `--set data.source=karpathy`; otherwise as given."""
    given = list(changes)

    def is_name(key: Key, value: Any) -> bool:
        return isinstance(value, str) and any(other.startswith(f"{key}.") for other, _ in given)

    return sorted(given, key=lambda change: not is_name(*change))


def set_key(tree: dict[str, Any], key: Key, value: Any) -> None:
    """Set `section.key` in the tree; missing sections are created.

    Raises:
        ValueError: a part of the key is empty, or one of its sections is a value.
    """
    *sections, leaf = key.split(".")
    if not all([*sections, leaf]):
        raise ValueError("expected section.key")
    node = tree
    for section in sections:
        if node is not tree and isinstance(node.get(section), str):
            # A plug-in that is written as its name.
            node[section] = {"name": node[section]}
        node = node.setdefault(section, {})
        if not isinstance(node, dict):
            raise ValueError(f"{section} is a value, not a section")
    # A copy, because a later change may be of a key inside it.
    node[leaf] = copy.deepcopy(value)
