"""Bad values, and random damage to valid data."""

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
# Bad content of any JSON file.
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
    """The tree with one value replaced, or one key added or removed, at any depth."""
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
        index = draw.randrange(len(tree))
        return [*tree[:index], changed(draw, tree[index]), *tree[index + draw.choice([0, 1]) :]]
    return draw.choice(VALUES)


def damaged(draw: Random, data: bytes) -> bytes:
    """The data truncated, with a bit flipped, with a range of zeros, or with further bytes at the end."""
    offset = draw.randrange(max(len(data), 1))
    kind = draw.randrange(4)
    if kind == 0 or not data:
        return data[:offset]
    if kind == 1:
        return data[:offset] + bytes([data[offset] ^ (1 << draw.randrange(8))]) + data[offset + 1 :]
    if kind == 2:
        return data[:offset] + bytes(min(64, len(data) - offset)) + data[offset + 64 :]
    return data + draw.randbytes(draw.randrange(1, 2000))


def dumped(tree: Any) -> bytes:
    """JSON as a careless program writes it, with NaN and half surrogate pairs."""
    return json.dumps(tree).encode()
