"""Sizes and times of modification of objects, as the store's file system reports them."""

from datetime import UTC, datetime
from typing import Any, NamedTuple

from fsspec.spec import AbstractFileSystem

from vldd_dist.store.backends.local_files import TEMPORARY, find_files

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


def find_objects(fs: AbstractFileSystem, scheme: str, path: str, root: str, temporary: bool) -> dict[str, Listed]:
    """All objects below `path`: key relative to `root` -> size and time, sorted by key.

    Args:
        temporary: whether to include files that local writers have not finished, or left behind when they were killed.
    """
    if scheme == "file":
        by_path = {name: Listed.of({"size": status.st_size, "mtime": status.st_mtime}) for name, status in find_files(path)}
    else:
        by_path = {str(name): Listed.of(info) for name, info in fs.find(path, detail=True).items()}
    by_key = {name.removeprefix(root.rstrip("/") + "/"): listed for name, listed in sorted(by_path.items())}
    return {key: by_key[key] for key in by_key if temporary or not key.rpartition("/")[2].startswith(TEMPORARY)}
