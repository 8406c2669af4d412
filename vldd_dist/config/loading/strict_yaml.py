"""YAML as people write descriptions: what PyYAML's constructors raise on bad values becomes one kind of error, a key that is
written twice is refused, and a few bytes of aliases cannot stand for a tree of billions.
"""

import re
from collections import Counter
from typing import Any, NamedTuple

import yaml

MAX_NODES = 100_000
MAX_DEPTH = 64
_NO_TEXT = re.compile("[\x00\ud800-\udfff]")
# PyYAML's own errors, and what lets through its constructors: a date of month 13, `!!int abc`, `!!bool perhaps`.
_ERRORS = (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, OverflowError)


class _Loader(yaml.SafeLoader):
    def get_single_data(self) -> Any:
        node = self.get_single_node()
        if node is None:
            return None
        _check(node, {}, 0)
        return self.construct_document(node)


def parse(text: str) -> Any:
    """The tree of a YAML document.

    Raises:
        ValueError: with a reason in one line.
    """
    try:
        return yaml.load(text, _Loader)
    except RecursionError:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels") from None
    except _ERRORS as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(reason) from None


class _Extent(NamedTuple):
    """Of a node with its aliases written out."""

    nodes: int
    height: int


def _check(node: yaml.Node, known: dict[int, _Extent], depth: int) -> _Extent:
    """Raises ValueError for what is too deep or too large; a node that aliases name is looked at once."""
    if depth > MAX_DEPTH:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels, or in itself")
    if id(node) not in known:
        children: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
            if twice := [key for key, times in keys.items() if times > 1 and key != "<<"]:
                raise ValueError(f"the key {twice[0]!r} is there twice")
            children = [child for pair in node.value for child in pair]
        elif isinstance(node, yaml.SequenceNode):
            children = node.value
        elif _NO_TEXT.search(node.value):
            raise ValueError("a NUL or half a surrogate pair in a text")
        extents = [_check(child, known, depth + 1) for child in children]
        known[id(node)] = _Extent(
            1 + sum(extent.nodes for extent in extents), 1 + max((extent.height for extent in extents), default=0)
        )
    if known[id(node)].nodes > MAX_NODES:
        raise ValueError(f"more than {MAX_NODES:,} values")
    if known[id(node)].height > MAX_DEPTH:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
    return known[id(node)]
