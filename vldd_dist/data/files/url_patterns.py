"""Patterns of URLs: several separated by '::', with braces and globs."""

import glob
import math
import os
import re

import braceexpand

from vldd_dist.data.files.reading import reading
from vldd_dist.errors import DataError, MissingData
from vldd_dist.store.retry import retried
from vldd_dist.store.user_files.opening import file_system, local_path

MOST_SHARDS = 1_000_000
_RANGE = re.compile(r"\{(-?\d+)\.\.(-?\d+)", re.ASCII)
_LIST = re.compile(r"\{([^{}]*)\}")


def expand(pattern: str) -> list[str]:
    """The URLs of a pattern: parts separated by '::', with {000..012} braces and globs. The URLs of a glob are sorted; `**` in
    it stands for folders at any depth. A part that is the path of a file, such as `data[1].tar`, is this file.

    Raises:
        MissingData: a local part matches nothing.
        DataError: a part at a URL matches nothing, or a part is malformed, means more than MOST_SHARDS shards, or its file
            system is not usable.
        StoreError: its file system cannot be reached at the moment.
    """
    urls: list[str] = []
    for part in pattern.split("::"):
        if "://" not in part and os.path.isfile(part):
            urls.append(part)
            continue
        # Checked first, because expanding the braces needs memory for all names.
        if _count(part) > MOST_SHARDS:
            raise DataError(f"{part[:200]}: the braces expand to more than {MOST_SHARDS:,} shards: correct the pattern")
        with reading(part):
            candidates = list(braceexpand.braceexpand(part))
        for candidate in candidates:
            with reading(candidate):
                matches = sorted(set(_glob(candidate))) if glob.has_magic(candidate) else [candidate]
            if not matches:
                kind = MissingData if local_path(candidate) is not None else DataError
                raise kind(f"{candidate}: matches no shard: correct the pattern")
            urls.extend(matches)
    return urls


def _count(pattern: str) -> float:
    """An upper bound of the number of names that the braces of a pattern expand to."""
    ranges, lists = _RANGE.findall(pattern), _LIST.findall(pattern)
    if any(len(bound) > 20 for pair in ranges for bound in pair):
        return math.inf
    return math.prod([abs(int(last) - int(first)) + 1 for first, last in ranges] + [text.count(",") + 1 for text in lists])


def _glob(pattern: str) -> list[str]:
    if "://" not in pattern:
        return glob.glob(pattern, recursive=True)
    filesystem, path = file_system(pattern)
    matches = [filesystem.unstrip_protocol(match) for match in retried(lambda seconds: filesystem.glob(path))]
    # As `glob` does: hidden files, such as those that macOS writes, match no pattern that does not name them.
    return matches if "/." in pattern else [match for match in matches if "/." not in match]
