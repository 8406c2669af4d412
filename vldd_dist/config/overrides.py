"""Setting one key of a description before it is checked, for `--set` and for the variants of a study."""

import copy
from typing import Any

# `section.key`, with one or more sections.
Key = str


class _SettingsFirst(dict[str, Any]):
    """The mapping of a plug-in that was written as its name and got settings by overrides. A later override with a name changes
    only the name, so that `--set data.source.images=...` may come before `--set data.source=karpathy`."""


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
            node[section] = _SettingsFirst(name=node[section])
        node = node.setdefault(section, {})
        if not isinstance(node, dict):
            raise ValueError(f"{section} is a value, not a section")
    earlier = node.get(leaf)
    if isinstance(value, str) and isinstance(earlier, _SettingsFirst):
        earlier["name"] = value
    else:
        # A copy, because a later override may change a key inside it.
        node[leaf] = copy.deepcopy(value)
