"""Bad samples are counted for each shard and logged at a limited rate. Too many of them stop the run with an error that names
the shard."""

import logging

import pytest

from vldd_dist.data.preparation import bad_samples
from vldd_dist.data.preparation.bad_samples import ENOUGH_TO_JUDGE, LOGGED_IN_FULL, BadSamples
from vldd_dist.errors import DataError


def error(number: int) -> DataError:
    return DataError(f"image {number} is no image")


def test_without_allowed_bad_samples_the_error_is_that_of_the_first() -> None:
    with pytest.raises(DataError, match="image 7 is no image"):
        BadSamples("train", 0).add(error(7), "a.tar", 1)


def test_the_log_is_limited_and_says_what_it_left_out(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(bad_samples.time, "monotonic", lambda: now)
    caplog.set_level(logging.WARNING)
    bad = BadSamples("train", 0.5)
    for number in range(100):
        bad.add(error(number), "a.tar", 1000)
    assert len(caplog.records) == LOGGED_IN_FULL
    now += bad_samples.SECONDS_BETWEEN_LOGS
    bad.add(error(100), "a.tar", 1000)
    assert caplog.messages[-1] == f"left out: image 100 is no image (and {100 - LOGGED_IN_FULL} not shown)"
    assert bad.count == 101


def test_plainly_too_many_stop_early_with_the_worst_shard() -> None:
    bad = BadSamples("train", 0.01)
    for number in range(ENOUGH_TO_JUDGE - 1):
        bad.add(error(number), "a.tar" if number < 5 else "b.tar", 500)
    with pytest.raises(DataError, match=r"20 of the first 500 images of the train split.*15 of them in b\.tar.*\(0\.01\)"):
        bad.add(error(20), "b.tar", 500)
