"""Parallel calls with results in order: the calls run in parallel, not more than allowed, and errors keep the order."""

import threading
from collections.abc import Iterator

import pytest

from vldd_dist.in_order import in_order


def test_calls_run_at_once_and_results_come_in_order() -> None:
    met = threading.Barrier(3)

    def call(number: int) -> int:
        # The barrier opens only when three calls run at the same time.
        met.wait(60)
        return -number

    assert list(in_order(call, range(9), threads=3, ahead=3)) == [-number for number in range(9)]


def test_no_more_inputs_are_taken_than_results_may_be_held() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    found = in_order(lambda number: number, items(), threads=2, ahead=4)
    assert taken == []
    for number in range(5):
        assert next(found) == number
        assert len(taken) == number + 5


def test_an_error_comes_in_its_turn() -> None:
    def call(number: int) -> int:
        if number % 3 == 2:
            raise KeyError(number)
        return number

    found = in_order(call, range(9), threads=4, ahead=8)
    assert [next(found), next(found)] == [0, 1]
    with pytest.raises(KeyError, match="2"):
        next(found)
