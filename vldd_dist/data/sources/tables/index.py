"""Cutting a table into parts so that all rows of an image are in the same part, whatever the order of the rows."""

from array import array
from hashlib import blake2b

import numpy as np

from vldd_dist.data.sources.base import Part
from vldd_dist.errors import DataError

# A part is prepared by one worker, which holds its captions in memory. If rows are sorted by image, no part needs as many rows.
MOST_ROWS = 2_000_000


class RowIndex:
    """The position and the image of each row of one split. It takes 16 bytes per row, and a few times as much while `parts`
    runs."""

    def __init__(self) -> None:
        self._positions, self._images = array("q"), array("Q")

    def add(self, position: int, image: str) -> None:
        """Add the next row. `image` is the same text for all rows of an image."""
        self._positions.append(position)
        # If two images had the same digest, they would only be kept in the same part.
        digest = blake2b(image.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        self._images.append(int.from_bytes(digest, "little"))

    def images(self) -> int:
        """The number of distinct images."""
        return len(np.unique(np.asarray(self._images)))

    def shared_with(self, other: "RowIndex") -> list[int]:
        """The positions of the rows whose images the other index has too."""
        shared = np.isin(np.asarray(self._images), np.asarray(other._images))
        return np.asarray(self._positions)[shared].tolist()

    def parts(self, part_samples: int, limit: int | None, advice: str) -> list[Part]:
        """Consecutive ranges of positions with about `part_samples` images each; all rows of an image are in the same range.

        Args:
            limit: largest number of images in all parts together.
            advice: the error's sentence if rows of one image are too far apart.

        Raises:
            DataError: rows of one image are so far apart that a part would have more than `MOST_ROWS` rows.
        """
        positions = np.asarray(self._positions)
        ends, counts = self._cuts()
        parts: list[Part] = []
        row = done = 0
        while row < len(positions) and (limit is None or done < limit):
            cut = min(int(np.searchsorted(counts, done + part_samples)), len(ends) - 1)
            stop_row = int(ends[cut]) + 1
            if stop_row - row > MOST_ROWS:
                raise DataError(advice)
            stop = int(positions[stop_row]) if stop_row < len(positions) else int(positions[-1]) + 1
            over = limit is not None and int(counts[cut]) > limit
            parts.append(Part(int(positions[row]), stop, limit - done if over and limit is not None else None))
            row, done = stop_row, int(counts[cut])
        return parts

    def _cuts(self) -> tuple[np.ndarray, np.ndarray]:
        """The rows after which the table may be cut, and the number of images up to each of them."""
        _, first, image = np.unique(np.asarray(self._images), return_index=True, return_inverse=True)
        number = np.arange(len(image))
        last = np.zeros(len(first), dtype=np.int64)
        # An image occurs several times as an index; its last assignment remains.
        last[image] = number
        ends = np.flatnonzero(np.maximum.accumulate(last[image]) == number)
        begun = np.cumsum(np.bincount(first, minlength=len(image)))
        return ends, begun[ends]
