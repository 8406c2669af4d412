"""The JSON parser for manifests of others takes a time that grows with the length."""

import time

import pytest

from vldd_dist import strict_json


@pytest.mark.parametrize("end", [b"", b"\\"], ids=["open string", "open escape"])
def test_many_escaped_quotes_in_a_string_that_does_not_end(end: bytes) -> None:
    began = time.process_time()
    with pytest.raises(ValueError, match="not JSON: Unterminated string"):
        strict_json.parse(b'{"a":"' + b'\\"' * 500_000 + end)
    assert time.process_time() - began < 1


def test_brackets_within_strings_are_no_nesting() -> None:
    text = b'["' + b'[\\"{' * 1000 + b'"]'
    assert strict_json.parse(text) == ['["{' * 1000]
    with pytest.raises(ValueError, match="nested deeper than 64 levels"):
        strict_json.parse(b'{"\\\\":' * 65 + b"1" + b"}" * 65)
