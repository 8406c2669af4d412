"""What a store's file system says about objects: their sizes and times of modification."""

from datetime import UTC, datetime
from typing import Any, NamedTuple

from fsspec.spec import AbstractFileSystem

from vldd_dist.store.local_files import TEMPORARY, find_files

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
    """All objects below `path`, by key relative to `root`, sorted by key.

    Args:
        temporary: whether to include files that local writers have not finished, or left behind when they were killed.
    """
    if scheme == "file":
        found = {name: Listed.of({"size": status.st_size, "mtime": status.st_mtime}) for name, status in find_files(path)}
    else:
        found = {str(name): Listed.of(info) for name, info in fs.find(path, detail=True).items()}
    keys = {name.removeprefix(root.rstrip("/") + "/"): listed for name, listed in sorted(found.items())}
    return {key: keys[key] for key in keys if temporary or not key.rpartition("/")[2].startswith(TEMPORARY)}
