"""Unreadable samples: they are counted and logged at a limited rate, and too many of them stop the preparation."""

import logging
import time
from collections import Counter

from vldd_dist.errors import DataError

LOGGED_IN_FULL = 10
SECONDS_BETWEEN_LOGS = 30.0
# With fewer bad samples, their fraction is checked only at the end of the split.
ENOUGH_TO_JUDGE = 20
# How to correct a source that has an image several times. It is not a bad sample: each copy is prepared.
ONCE = "give each image once, with all its captions, or its copies count as wrong answers"

logger = logging.getLogger(__name__)


def too_many(how_many: str, split: str, *, worst: str, in_worst: int, max_fraction: float) -> DataError:
    """The error for too many bad samples.

    Args:
        worst: the shard or folder with the most of them.
        in_worst: their number there.
    """
    return DataError(
        f"data: {how_many} of the {split} split cannot be read, {in_worst} of them in {worst}; more than "
        f"data.max_bad_fraction ({max_fraction:g}): correct the source or raise it"
    )


class BadSamples:
    """Counts the bad samples of a part of a split. The fraction in the whole split is checked when its parts are merged.

    Args:
        max_fraction: largest fraction of the split's samples that may be bad; 0: the first bad sample is an error.
    """

    def __init__(self, split: str, max_fraction: float) -> None:
        self.split, self.max_fraction = split, max_fraction
        self.of_container: Counter[str] = Counter()
        self._unlogged, self._last_log = 0, 0.0

    @property
    def count(self) -> int:
        return self.of_container.total()

    def add(self, error: DataError, container: str, seen: int) -> None:
        """Count a bad sample.

        Args:
            container: the shard or folder that holds it.
            seen: number of samples so far, including this one.

        Raises:
            DataError: `error` itself if no bad samples are allowed; an error that names the worst shard if more than twice the
                allowed fraction of the samples so far are bad.
        """
        if self.max_fraction == 0:
            raise error
        self.of_container[container] += 1
        self._log(error)
        if self.count >= ENOUGH_TO_JUDGE and self.count > 2 * self.max_fraction * seen:
            ((worst, in_worst),) = self.of_container.most_common(1)
            how_many = f"{self.count} of the first {seen} images"
            raise too_many(how_many, self.split, worst=worst, in_worst=in_worst, max_fraction=self.max_fraction)

    def _log(self, error: DataError) -> None:
        now = time.monotonic()
        if self.count <= LOGGED_IN_FULL or now - self._last_log >= SECONDS_BETWEEN_LOGS:
            more = f" (and {self._unlogged} not shown)" if self._unlogged else ""
            logger.warning("left out: %s%s", error, more)
            self._unlogged, self._last_log = 0, now
        else:
            self._unlogged += 1
