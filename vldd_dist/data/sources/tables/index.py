"""Cutting a table into parts in which whole images lie, whatever the order of its rows."""

from array import array
from hashlib import blake2b

import numpy as np

from vldd_dist.data.sources.base import Part
from vldd_dist.errors import DataError

# A part is prepared by one worker, which holds its captions. More rows than these are more than any part needs in a table whose
# rows are sorted by image.
MOST_ROWS = 2_000_000


class RowIndex:
    """Where the rows of one split begin and which image they are of: 16 bytes a row, and as much again a few times while parts
    are cut."""

    def __init__(self) -> None:
        self._positions, self._images = array("q"), array("Q")

    def add(self, position: int, image: str) -> None:
        """The next row. `image` is equal for rows of one image."""
        self._positions.append(position)
        # Equal digests of two images would only keep them in one part.
        digest = blake2b(image.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        self._images.append(int.from_bytes(digest, "little"))

    def images(self) -> int:
        return len(np.unique(np.asarray(self._images)))

    def parts(self, images: int, limit: int | None, advice: str) -> list[Part]:
        """Stretches of positions, in order, of about `images` images each; all rows of an image are in one of them.

        Args:
            limit: images of all parts at most.
            advice: what to do about rows of an image that are too far apart.

        Raises:
            DataError: they are.
        """
        positions = np.asarray(self._positions)
        ends, counts = self._cuts()
        parts: list[Part] = []
        row = done = 0
        while row < len(positions) and (limit is None or done < limit):
            cut = min(int(np.searchsorted(counts, done + images)), len(ends) - 1)
            stop_row = int(ends[cut]) + 1
            if stop_row - row > MOST_ROWS:
                raise DataError(advice)
            stop = int(positions[stop_row]) if stop_row < len(positions) else int(positions[-1]) + 1
            over = limit is not None and int(counts[cut]) > limit
            parts.append(Part(int(positions[row]), stop, limit - done if over and limit is not None else None))
            row, done = stop_row, int(counts[cut])
        return parts

    def _cuts(self) -> tuple[np.ndarray, np.ndarray]:
        """The rows after which the table may be cut, and how many images have begun by then."""
        _, first, image = np.unique(np.asarray(self._images), return_index=True, return_inverse=True)
        number = np.arange(len(image))
        last = np.zeros(len(first), dtype=np.int64)
        # Of equal indices the last assignment stays.
        last[image] = number
        ends = np.flatnonzero(np.maximum.accumulate(last[image]) == number)
        begun = np.cumsum(np.bincount(first, minlength=len(image)))
        return ends, begun[ends]
