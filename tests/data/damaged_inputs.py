"""Damaged bytes and arbitrary JSON for Hypothesis, and what may come of reading them."""

import json
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from vldd_dist.control_characters import one_line
from vldd_dist.data.images import decode
from vldd_dist.data.sources.sample import RawSample, UnreadableSample
from vldd_dist.errors import DataError

Out = TypeVar("Out")
FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None)
TEXT = st.text(st.characters(exclude_categories=()), max_size=12)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """Damaged bytes: truncated, with flipped bits, or partly replaced."""
    changed = bytearray(data[: draw(st.integers(0, len(data)))]) if draw(st.booleans()) else bytearray(data)
    for _ in range(draw(st.integers(0, 3))):
        if changed:
            at = draw(st.integers(0, len(changed) - 1))
            changed[at : at + draw(st.integers(0, 2))] = draw(st.binary(max_size=3))
    return bytes(changed)


def result_of(function: Callable[[], Out]) -> Out | None:
    """The result, or None for a VlddError. Any other exception fails the test."""
    try:
        return function()
    except DataError as error:
        if one_line(str(error)) != str(error):
            raise AssertionError("not fit for a terminal") from error
        return None


def assert_raw_or_unreadable(found: list[RawSample | UnreadableSample]) -> None:
    for sample in found:
        assert isinstance(sample, RawSample | UnreadableSample)
        if isinstance(sample, RawSample):
            assert sample.captions
            json.dumps({"id": sample.key, "captions": sample.captions}, ensure_ascii=False).encode()
            assert isinstance(sample.image, bytes)
            if (image := result_of(partial(decode, sample.image, sample.source))) is not None:
                assert image.mode == "RGB"
        else:
            assert one_line(str(sample.error)) == str(sample.error)
