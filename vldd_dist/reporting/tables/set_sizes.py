"""The bytes of sets with a learned similarity beside plain pairs: what tables say of them, and when they may be compared."""

from collections.abc import Iterable, Mapping, Sequence

from vldd_dist.method_names import DISTILLED

# Number of pairs -> (bytes of a distilled set, bytes of as many plain pairs), if a similarity is learned.
Sizes = Mapping[int, tuple[int, int]]

COUNTED = "Both sides are counted as float32; real images, stored with a byte for each number, have a quarter of it."
# A best value is marked only among sets of which the largest has at most this many times the bytes of the smallest.
LARGEST_RATIO = 1.01
UNMARKED = "Among sets whose bytes differ by more than 1 %, no best value is marked."


def ratio_of(method: str, pairs: int, sizes: Sizes) -> float:
    """The bytes of a set as a multiple of those of as many plain pairs."""
    size, plain = sizes.get(pairs, (1, 1)) if method == DISTILLED else (1, 1)
    return size / plain


def are_equal(ratios: Iterable[float]) -> bool:
    """Whether a best value may be marked among sets with these `ratio_of`, of which there is at least one."""
    of_sets = list(ratios)
    return max(of_sets) <= LARGEST_RATIO * min(of_sets)


def similarity_note(more: Sequence[tuple[str, float]], further: str) -> list[str]:
    """The sentences on sets with a learned similarity; none if there is no such set.

    Args:
        more: (which set, such as "at 100 pairs", its `ratio_of`).
        further: the sentence at the end if one of the sets has too many bytes for a mark.
    """
    if not more:
        return []
    each = ", ".join(f"{_percent(100 * (ratio - 1))} % more {which}" for which, ratio in more)
    said = f"A distilled set has a learned similarity too, and so more bytes than real pairs: {each}."
    return [said if are_equal([1, *(ratio for _, ratio in more)]) else f"{said} {further}"]


def _percent(value: float) -> str:
    """Two digits, never in powers of ten."""
    return f"{float(f'{value:.2g}'):,.10g}"
