"""The content of a file or folder, which is read only after its version."""

from collections.abc import Callable
from functools import cached_property
from typing import Generic, TypeVar

Content = TypeVar("Content")


class Pinned(Generic[Content]):
    """A file or folder with its version and its content.

    Args:
        version: finds the version; called once.
        read: reads the content.
    """

    def __init__(self, version: Callable[[], str], read: Callable[[], Content]) -> None:
        self._find_version, self._read = version, read

    @cached_property
    def version(self) -> str:
        """The version, as it was before the content was first read."""
        return self._find_version()

    @cached_property
    def content(self) -> Content:
        """The content, which is read once and kept."""
        return self.read()

    def read(self) -> Content:
        """Read the content without keeping it."""
        # First: if the file is replaced between the two, workers find another version than the planned one, and stop. In the
        # other order they would find the planned version, and prepare the new file by positions in the old one.
        _ = self.version
        return self._read()
