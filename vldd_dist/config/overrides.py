"""Changing one key of a description that is not yet checked: `--set` and the variants of a study."""

import copy
from typing import Any

# `section.key`, with as many sections as there are.
Key = str


class _SettingsFirst(dict[str, Any]):
    """A plug-in that was given by its name, and got settings by overrides: a name that follows leaves the settings, so that
    `--set data.source.images=...` may come before `--set data.source=karpathy`."""


def set_key(tree: dict[str, Any], key: Key, value: Any) -> None:
    """Set `section.key` in the tree; sections that are not there are made.

    Raises:
        ValueError: the key is empty in a part, or one of its sections is a value.
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
        # A copy: a later key may change what lies in it.
        node[leaf] = copy.deepcopy(value)
