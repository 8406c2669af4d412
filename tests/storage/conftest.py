"""A loopback S3 server for the tests of storage."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.s3_server import S3Server, s3_server


@pytest.fixture(scope="session")
def server() -> Iterator[S3Server]:
    """A real one where it is installed."""
    with s3_server() as server:
        yield server


@pytest.fixture
def s3(server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> S3Server:
    """The server as this process's environment names it, and a node's cache of the test's own."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("VLDD_CACHE_DIR", str(tmp_path / "cache"))
    return server
