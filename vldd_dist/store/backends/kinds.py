"""The backend of each scheme: local folders, memory, object stores, and those that can only be read."""

import os
import threading
from typing import Any
from urllib.parse import quote

from vldd_dist.errors import StoreError
from vldd_dist.store.backends import s3, web
from vldd_dist.store.backends.base import Backend, Limit
from vldd_dist.store.backends.file_systems import HUB
from vldd_dist.store.backends.listing import Listed, Page, by_key
from vldd_dist.store.backends.local_files import check_permission, create_file, find_files, replace_file
from vldd_dist.store.backends.object_stores import S3, ObjectStore
from vldd_dist.store.user_files.regular_files import open_regular

_memory_lock = threading.Lock()


def backend_of(scheme: str, root: str) -> Backend:
    """The backend for URLs with a scheme; nothing is opened."""
    kinds: dict[str, type[Backend]] = {
        "file": LocalFiles,
        "memory": Memory,
        HUB: Hub,
        **dict.fromkeys(s3.SCHEMES, S3),
        **dict.fromkeys(web.SCHEMES, WebServer),
    }
    return kinds.get(scheme, ObjectStore)(scheme, root)


class Local(Backend):
    """The base of backends without a network."""

    is_local = True

    def confirm(self, path: str, data: bytes, limit: Limit) -> None:
        """No server can have stored other bytes."""


class LocalFiles(Local):
    """A folder on a disk of this machine, or on a network file system."""

    def read(self, path: str, at_most: int | None) -> bytes:
        with open_regular(path) as file:
            # `read` allocates what it is asked for, however small the file is.
            return file.read(-1 if at_most is None else min(at_most, os.fstat(file.fileno()).st_size) + 1)

    def check_permission(self, path: str) -> None:
        try:
            check_permission(path)
        except NotADirectoryError:
            raise
        except OSError as error:
            # Its folder is the nearest one that exists: `/` on a machine that does not mount the store's.
            raise StoreError(
                f"{self.url}: the folder {error.filename} cannot be written ({error.strerror}): mount the store's folder on "
                "this machine, give this user access, or plan without --store"
            ) from None

    def write(self, path: str, data: bytes, limit: Limit) -> None:
        replace_file(path, data)

    def create(self, path: str, data: bytes, limit: Limit, fall_back: bool = True) -> None:
        create_file(path, data, fall_back)

    def find(self, path: str, temporary: bool, page: str | None, limit: Limit) -> Page:
        found = {name: Listed.of({"size": status.st_size, "mtime": status.st_mtime}) for name, status in find_files(path)}
        return Page(by_key(found, self.root, temporary))


class Memory(Local):
    """The memory of this process."""

    def write(self, path: str, data: bytes, limit: Limit) -> None:
        self.fs.pipe_file(path, data)

    def create(self, path: str, data: bytes, limit: Limit, fall_back: bool = True) -> None:
        with _memory_lock:
            if self.fs.exists(path):
                raise FileExistsError(path)
            self.fs.pipe_file(path, data)

    def find(self, path: str, temporary: bool, page: str | None, limit: Limit) -> Page:
        found = {str(name): Listed.of(info) for name, info in self.fs.find(path, detail=True).items()}
        # The file system lists its paths with a slash at the beginning.
        return Page(by_key(found, self.fs._strip_protocol(f"{self.url}/"), temporary))


class ReadOnly(Backend):
    """The base of backends whose objects can only be read."""

    def write(self, path: str, data: bytes, limit: Limit) -> None:
        self.require_writable()

    def create(self, path: str, data: bytes, limit: Limit, fall_back: bool = True) -> None:
        self.require_writable()

    def confirm(self, path: str, data: bytes, limit: Limit) -> None:
        self.require_writable()


class WebServer(ReadOnly):
    """A web server with a distilled set."""

    write_instead = "write to a folder, file://, s3:// or gs://"

    def path_of(self, key: str) -> str:
        return f"{self.url}/{quote(key)}"

    def read(self, path: str, at_most: int | None) -> bytes:
        return super().read(path, at_most) if at_most is None else web.read(self.fs, path, at_most)

    def read_range(self, path: str, start: int, length: int, limit: Limit) -> bytes:
        return web.read_range(self.fs, path, start, length)

    def info(self, path: str, limit: Limit) -> dict[str, Any]:
        return web.info(self.fs, path, limit)

    def find(self, path: str, temporary: bool, page: str | None, limit: Limit) -> Page:
        raise StoreError(f"{self.url}: a web server does not list objects: name the folder of one distilled set")


class Hub(ReadOnly):
    """The Hugging Face hub."""

    write_instead = "write elsewhere, then `vldd push` a distilled set there"

    def read(self, path: str, at_most: int | None) -> bytes:
        return bytes(self.fs.cat_file(path, end=None if at_most is None else at_most + 1))
