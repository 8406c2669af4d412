"""Samples that cannot be read: counted, logged at a limited rate, and beyond the allowed fraction the end of the run."""

import logging
import time
from collections import Counter

from vldd_dist.errors import DataError

LOGGED_IN_FULL = 10
SECONDS_BETWEEN_LOGS = 30.0
# Fewer bad samples than this say little of a fraction: the end of the split decides.
ENOUGH_TO_JUDGE = 20

logger = logging.getLogger(__name__)


class BadSamples:
    """The bad samples of one split.

    Args:
        max_fraction: of a split's samples may be bad; 0 makes the first bad one an error.
    """

    def __init__(self, split: str, max_fraction: float) -> None:
        self.split, self.max_fraction = split, max_fraction
        self.of_container: Counter[str] = Counter()
        self._unlogged, self._last_log = 0, 0.0

    @property
    def count(self) -> int:
        return self.of_container.total()

    def add(self, error: DataError, container: str, seen: int) -> None:
        """Count one.

        Args:
            container: the shard or folder it lies in.
            seen: samples of the split so far, this one among them.

        Raises:
            DataError: the error itself when none is allowed; or the split is plainly beyond what is, by a margin
                (twice the fraction), with the name of the worst shard.
        """
        if self.max_fraction == 0:
            raise error
        self.of_container[container] += 1
        self._log(error)
        if self.count >= ENOUGH_TO_JUDGE and self.count > 2 * self.max_fraction * seen:
            raise self._too_many(f"{self.count} of the first {seen} pictures")

    def judge(self, seen: int) -> None:
        """At the end of a split. Raises DataError when more than the allowed fraction was bad."""
        if self.count > self.max_fraction * seen:
            raise self._too_many(f"{self.count} of {seen} pictures")

    def _too_many(self, how_many: str) -> DataError:
        worst, number = self.of_container.most_common(1)[0]
        return DataError(
            f"data: {how_many} of the {self.split} split cannot be read, {number} of them in {worst}; more than "
            f"data.max_bad_fraction ({self.max_fraction:g}): mend the source or raise it"
        )

    def _log(self, error: DataError) -> None:
        now = time.monotonic()
        if self.count <= LOGGED_IN_FULL or now - self._last_log >= SECONDS_BETWEEN_LOGS:
            more = f" (and {self._unlogged} not shown)" if self._unlogged else ""
            logger.warning("left out: %s%s", error, more)
            self._unlogged, self._last_log = 0, now
        else:
            self._unlogged += 1
