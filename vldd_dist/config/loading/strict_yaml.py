"""A strict YAML parser for descriptions. It turns whatever PyYAML's constructors raise on bad values into a ValueError, refuses
duplicate keys and numbers that PyYAML reads to the base of 8 or 60, and limits the size of a document whose aliases would expand to billions of nodes.
"""

import re
from collections import Counter
from typing import Any, NamedTuple

import yaml

from vldd_dist.errors import message_of

MAX_NODES = 100_000
MAX_DEPTH = 64
_NOT_TEXT = re.compile("[\x00\ud800-\udfff]")
# A plain integer that begins with a zero is octal to PyYAML, as in YAML 1.1; JSON and YAML 1.2 ignore the zero.
_LEADING_ZERO = re.compile(r"[-+]?0[0-9_]+")
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
# PyYAML's own errors, and those that its constructors raise for a date of month 13, `!!int abc` or `!!bool perhaps`.
_ERRORS = (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, OverflowError)

# Tokens of the parser that stand for no characters, of which the last ones come after a comment.
_WITHOUT_TEXT = (yaml.StreamStartToken, yaml.StreamEndToken, yaml.BlockEndToken)


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
        ValueError: the document cannot be read; the message is one line.
    """
    try:
        return yaml.load(text, _Loader)
    except RecursionError:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = "a tab: indent with spaces" if "\\t" in (error.problem or "") else error.problem or error.context
        raise ValueError(f"line {mark.line + 1}, column {mark.column + 1}: {problem}" if mark else problem) from None
    except _ERRORS as error:
        raise ValueError(message_of(error)) from None


def comment_at_end(text: str) -> str:
    """The comment after the last value of a document that `parse` accepts; an empty text if there is none."""
    ends = [token.end_mark.index for token in yaml.scan(text) if not isinstance(token, _WITHOUT_TEXT)]
    rest = text[max(ends, default=0) :].strip()
    return rest if rest.startswith("#") else ""


class _Extent(NamedTuple):
    """Size of a node with its aliases expanded."""

    nodes: int
    height: int


def _check(node: yaml.Node, checked: dict[int, _Extent], depth: int) -> _Extent:
    """The size of the tree below a node.

    Args:
        checked: id of a node -> its size, for nodes that several aliases refer to; filled here.
        depth: of the node in the document.

    Raises:
        ValueError: the tree is too deep or too large, or `_children` refuses a node.
    """
    if depth > MAX_DEPTH:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels, or in itself")
    if id(node) not in checked:
        extents = [_check(child, checked, depth + 1) for child in _children(node)]
        checked[id(node)] = _Extent(
            1 + sum(extent.nodes for extent in extents), 1 + max((extent.height for extent in extents), default=0)
        )
    extent = checked[id(node)]
    if extent.nodes > MAX_NODES:
        raise ValueError(f"more than {MAX_NODES:,} values")
    if extent.height > MAX_DEPTH:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
    return extent


def _children(node: yaml.Node) -> list[yaml.Node]:
    """The nodes directly below a node. Raises ValueError if a key is written twice, or as `_check_scalar` does."""
    if isinstance(node, yaml.MappingNode):
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        if repeated := [key for key, times in keys.items() if times > 1 and key != "<<"]:
            raise ValueError(f"the key {repeated[0]!r} is written twice: remove one of them")
        return [child for pair in node.value for child in pair]
    if isinstance(node, yaml.SequenceNode):
        return list(node.value)
    if isinstance(node, yaml.ScalarNode):
        _check_scalar(node)
    return []


def _check_scalar(node: yaml.ScalarNode) -> None:
    """Raises ValueError for a text with characters that are not allowed, and for a number that PyYAML reads to the base of 8
    (010) or 60 (1:30), which is not what people mean."""
    text = node.value
    if _NOT_TEXT.search(text):
        raise ValueError("a text contains a NUL character or half a surrogate pair")
    if node.style is not None or node.tag not in _NUMBERS:
        return
    if _LEADING_ZERO.fullmatch(text) and text.strip("+-0_"):
        raise ValueError(f"{text} would be the octal number {yaml.safe_load(text)}: leave out the zeros before it, or quote it")
    if ":" in text:
        raise ValueError(f"{text} would be {yaml.safe_load(text)}, a number to the base of 60: write that number, or quote it")
