"""Sizes and times of modification of objects, as the store's file system reports them."""

from datetime import UTC, datetime
from typing import Any, NamedTuple

from vldd_dist.store.backends.local_files import TEMPORARY

# The time of an object whose file system reports none: such an object is never old enough to be garbage.
NEVER = datetime.max.replace(tzinfo=UTC)
_TIME_FIELDS = ("LastModified", "last_modified", "mtime", "updated", "created")


class Listed(NamedTuple):
    """An object's size in bytes and the time it was written, by the store's clock and with time zone."""

    size: int
    modified: datetime

    @classmethod
    def of(cls, info: dict[str, Any]) -> "Listed":
        """From the dict that an fsspec file system returns for an object."""
        moment = next((info[name] for name in _TIME_FIELDS if info.get(name) is not None), NEVER)
        if isinstance(moment, int | float):
            moment = datetime.fromtimestamp(moment, UTC)
        elif isinstance(moment, str):
            moment = datetime.fromisoformat(moment)
        return cls(int(info["size"]), moment if moment.tzinfo else moment.replace(tzinfo=UTC))


class Page(NamedTuple):
    """A page of a listing: key -> size and time of each object, sorted by key, and the name of the page that follows; None:
    there is none."""

    objects: dict[str, Listed]
    following: str | None = None


def by_key(by_path: dict[str, Listed], root: str, temporary: bool) -> dict[str, Listed]:
    """Objects by path -> the same by key, which is the path relative to `root`, sorted.

    Args:
        temporary: whether to include files that local writers have not finished, or left behind when they were killed.
    """
    found = {path.removeprefix(root.rstrip("/") + "/"): listed for path, listed in sorted(by_path.items())}
    return {key: found[key] for key in found if temporary or not key.rpartition("/")[2].startswith(TEMPORARY)}
