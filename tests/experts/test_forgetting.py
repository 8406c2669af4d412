"""The definition of learned and forgotten pairs."""

import torch

from vldd_dist.experts.forgetting import ForgettingCounts


def visit(counts: ForgettingCounts, learned: list[bool], indices: list[int] | None = None) -> None:
    counts.visit(torch.tensor(indices or range(len(learned))), torch.tensor(learned))


def test_an_event_is_learned_before_and_not_now() -> None:
    counts = ForgettingCounts.empty(4)
    # The four images: learned and kept; learned, forgotten and learned again; never learned; forgotten twice.
    for learned in (
        [True, True, False, True],
        [True, False, False, False],
        [True, True, False, True],
        [True, True, False, False],
    ):
        visit(counts, learned)
    assert counts.events.tolist() == [0, 1, 0, 2]
    assert counts.learned.tolist() == [True, True, False, False]
    assert counts.ever.tolist() == [True, True, False, True]


def test_learning_an_entry_is_not_a_forgetting_event() -> None:
    counts = ForgettingCounts.empty(2)
    visit(counts, [False, False])
    visit(counts, [True, True])
    assert counts.events.tolist() == [0, 0]
    assert counts.ever.tolist() == [True, True]


def test_images_that_are_not_visited_keep_their_counts() -> None:
    counts = ForgettingCounts.empty(3)
    visit(counts, [True, True, True])
    visit(counts, [False], [1])
    visit(counts, [False], [1])
    assert counts.events.tolist() == [0, 1, 0]
    assert counts.learned.tolist() == [True, False, True]
    kept = ForgettingCounts(**counts.as_tensors())
    assert kept.events is counts.events
    assert kept.learned is counts.learned
    assert kept.ever is counts.ever


def test_counts_of_images_are_those_of_their_captions() -> None:
    """Three images with two, one and three captions."""
    counts = ForgettingCounts.empty(6)
    for learned in (
        [True, False, True, False, False, False],
        [False, True, True, False, False, False],
        [True, False, True, False, True, False],
    ):
        visit(counts, learned)
    images = counts.of_images([2, 1, 3])
    assert images.events.tolist() == [2, 0, 0]
    assert images.learned.tolist() == [False, True, False]
    assert images.ever.tolist() == [True, True, True]
    assert ForgettingCounts.empty(3).of_images([1, 1, 1]).ever.tolist() == [False] * 3


def test_counts_begin_at_nothing() -> None:
    empty = ForgettingCounts.empty(3)
    assert (empty.events.tolist(), empty.learned.tolist(), empty.ever.tolist()) == ([0] * 3, [False] * 3, [False] * 3)
    assert empty.events.dtype == torch.int64
