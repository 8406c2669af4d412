"""The parts that sentences about errors have in common."""

import pytest

from vldd_dist.errors import MOST_CHARACTERS, did_you_mean, first_line, message_of


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("no\n  such\tkey "), "no such key"),
        (ValueError(), "ValueError"),
        (ValueError(" \n"), "ValueError"),
        (ValueError("x" * 1000), "x" * MOST_CHARACTERS),
    ],
)
def test_an_error_is_quoted_in_one_line(error: Exception, text: str) -> None:
    assert message_of(error) == text


def test_the_first_line_of_an_error_with_a_traceback() -> None:
    assert first_line(RuntimeError("\nit failed\nTraceback: ...")) == "it failed"


def test_a_similar_name_is_proposed() -> None:
    assert did_you_mean("herdng", ["random", "herding"]) == "; did you mean 'herding'?"
    assert did_you_mean("xyz", ["random", "herding"]) == ""
