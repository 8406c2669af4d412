"""Bad values: single ones, and changes of something whole."""

import json
from random import Random
from typing import Any

DEEP = "[" * 50_000 + "]" * 50_000
SEQUENCES = "\x1b[2J\x1b]0;renamed\x07\x9b31m\u202egnp.exe\r\x08"
VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**62, 2**70, -(10**30), 0.5, 1e308, float("nan"), float("inf"), -float("inf"),
    "", " ", "x", "x" * 5000, "a\0b", "\ud800", SEQUENCES, "[/b]", "%s{}", "../../neighbour/secret.txt", "/etc/passwd",
    "~root", "file:///etc/passwd", "2020-13-45", "é走🐕", [], [[]], [None], {}, {"": {}}, {"a": "b"}, [1, 1], [0.1] * 50,
]  # fmt: skip
# Of JSON, whatever it is read for.
JSON_TEXTS = [
    b"", b"{", b"null", b"[]", b"3", b'"x"', b"\xff\xfe\x00", b"{}" * 2, b'{"a": NaN}', b'{"a": 1e999}', b'{"a": -Infinity}',
    b'{"a": "\\ud800"}', DEEP.encode(), b'{"a":' * 50_000, b"9" * 5000, "{}".encode("utf-16"), b"\0" * 600,
    b'{"schema_version": 1, "x": NaN}', b'{"schema_version": 1, "x": 1e999}', b'{"schema_version": true}',
    b'{"schema_version": 2.0}', b'{"schema_version": 1, "x": "\\udc00"}', b'{"schema_version": 1, "x": ' + DEEP.encode() + b"}",
    b'{"schema_version": 99}', b'{"schema_version": [1]}', b'{"schema_version": 1}',
]  # fmt: skip
YAML_VALUES = [
    "2020-13-45", "2020-02-30T99:00:00", "!!int abc", "!!int ''", "!!float x", "!!bool perhaps", "!!timestamp yesterday",
    "!!binary x", "!!python/object/apply:os.system [ls]", "9" * 5000, "[" * 900, "{a: 1, a: 2}", "&a [*a]", "'", '"', "{",
    "- - -", "? [1]\n: 2", ".inf", "-.inf", ".nan", "1e999", '"a\\0b"', '"\\ud800"', "%TAG", "@x", "`x`", "*nothing",
    "!unknown x", "\t\tx:\t",
]  # fmt: skip


def changed(draw: Random, tree: Any) -> Any:
    """The tree with one value replaced, one key added or one left out, at any depth."""
    if isinstance(tree, dict) and tree:
        key = draw.choice(sorted(tree))
        kind = draw.random()
        if kind < 0.7:
            return tree | {key: changed(draw, tree[key])}
        if kind < 0.8:
            return {each: value for each, value in tree.items() if each != key}
        if kind < 0.9:
            return tree | {draw.choice(["x", "", "\x1b[2J", key + "s", key.upper()]): draw.choice(VALUES)}
    if isinstance(tree, list) and tree and draw.random() < 0.7:
        at = draw.randrange(len(tree))
        return [*tree[:at], changed(draw, tree[at]), *tree[at + draw.choice([0, 1]) :]]
    return draw.choice(VALUES)


def damaged(draw: Random, data: bytes) -> bytes:
    """Bytes cut short, with a bit flipped, a stretch of zeros, or more of them."""
    at = draw.randrange(max(len(data), 1))
    kind = draw.randrange(4)
    if kind == 0 or not data:
        return data[:at]
    if kind == 1:
        return data[:at] + bytes([data[at] ^ (1 << draw.randrange(8))]) + data[at + 1 :]
    if kind == 2:
        return data[:at] + bytes(min(64, len(data) - at)) + data[at + 64 :]
    return data + draw.randbytes(draw.randrange(1, 2000))


def dumped(tree: Any) -> bytes:
    """JSON as a careless program writes it: NaN, half pairs and all."""
    return json.dumps(tree).encode()
