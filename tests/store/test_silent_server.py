"""A server that accepts connections and never answers: with the default time-outs, requests fail within a minute."""

import math
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from botocore.exceptions import ReadTimeoutError

from vldd_dist import load_distilled
from vldd_dist.artifacts.tensor_files import tensors
from vldd_dist.config.sections.model import ImageTowerSettings
from vldd_dist.data.files import url_patterns, versions
from vldd_dist.data.files.url_patterns import expand
from vldd_dist.data.files.versions import MANY, listing, version_of, versions_of
from vldd_dist.errors import Outage, StoreError
from vldd_dist.models.image.identity import weights_identity
from vldd_dist.store import retry
from vldd_dist.store import store as store_module
from vldd_dist.store.backends.file_systems import open_file_system
from vldd_dist.store.store import Store
from vldd_dist.store.user_files import opening
from vldd_dist.store.user_files.opening import open_seekable, open_url

LARGE = bytes(8 << 20)


class SilentServer:
    """A server that counts connections and never answers."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.connections: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def _accept(self) -> None:
        while True:
            try:
                self.connections.append(self.listener.accept()[0])
            except OSError:
                return

    def count(self) -> int:
        """The number of connections of other processes. Connections are accepted in order, and the one made here is the
        last."""
        with socket.create_connection(self.listener.getsockname()) as own:
            while own.getsockname() not in [each.getpeername() for each in self.connections]:
                time.sleep(0.01)
            return len(self.connections) - 1

    def close(self) -> None:
        for each in (self.listener, *self.connections):
            each.close()


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[SilentServer]:
    server = SilentServer()
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    yield server
    server.close()


@pytest.fixture
def once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A single attempt of `retried`, with the usual client except for shorter time-outs. The attempt has a time-out of its own,
    because with a body the client waits without limit for the server to ask for it."""
    monkeypatch.setattr(retry, "READ_SECONDS", 0.2)
    for module in (store_module, opening, versions, url_patterns):
        monkeypatch.setattr(module, "retried", lambda operation, size=0: operation(4.0))


def connected(store: Store) -> Store:
    """The same store with its client created, which takes a while."""
    store.fs.connect()
    return store


def test_default_timeouts_end_an_operation_after_about_a_minute() -> None:
    for fs in (open_file_system("s3", attempts=1), Store("s3://bucket/x").fs):
        fs.connect()
        config = fs.s3.meta.config
        for seconds in (config.read_timeout, config.connect_timeout + config.read_timeout):
            request = seconds * config.retries["total_max_attempts"] * fs.retries
            requests = math.ceil(retry.DEADLINE_SECONDS / request)
            assert requests >= 3, "the request is retried"
            assert requests * request + retry.LONGEST_WAIT_SECONDS <= 70


@pytest.mark.parametrize(
    "operation",
    [
        lambda store: store.read("x"),
        lambda store: store.read_range("x", 0, 10),
        lambda store: store.exists("x"),
        lambda store: store.size("x"),
        lambda store: store.keys("x"),
        lambda store: store.write("x", b"1"),
        lambda store: store.write("x", LARGE),
        lambda store: store.create("x", b"1"),
        lambda store: store.delete(["x"]),
    ],
    ids=["read", "range", "exists", "size", "keys", "write", "large write", "create", "delete"],
)
@pytest.mark.usefixtures("once")
def test_an_attempt_is_one_request(operation: Callable[[Store], object], silent: SilentServer) -> None:
    """Retries of the client library and of s3fs would multiply with ours, so they are disabled."""
    with pytest.raises(StoreError, match=r"^s3://bucket/x/x: given up after \d+ s of retries \(.*Timeout"):
        operation(connected(Store("s3://bucket/x")))
    assert silent.count() == 1


@pytest.mark.parametrize(
    "operation",
    [
        lambda: open_url("s3://bucket/shard.tar"),
        lambda: version_of("s3://bucket/shard.tar"),
        lambda: versions_of([f"s3://bucket/{number}.tar" for number in range(MANY)], "the shard"),
        lambda: expand("s3://bucket/*.tar"),
        lambda: listing("s3://bucket/folder"),
        lambda: weights_identity(ImageTowerSettings(weights="s3://bucket/weights.safetensors")),
        lambda: tensors.read_file("s3://bucket/weights.safetensors", ""),
    ],
    ids=["open", "version", "versions", "glob", "listing", "identity of weights", "weights"],
)
@pytest.mark.usefixtures("once")
def test_reading_a_users_file_from_a_silent_server_times_out(operation: Callable[[], object], silent: SilentServer) -> None:
    with pytest.raises((ReadTimeoutError, Outage)):
        operation()
    assert silent.count() == 1


@pytest.mark.parametrize(
    "operation",
    [
        lambda url: Store(url).read("x", 1000),
        lambda url: Store(url).read_range("x", 0, 10),
        lambda url: Store(url).size("x"),
        lambda url: load_distilled(url),
        lambda url: open_url(f"{url}/shard.tar"),
        lambda url: open_seekable(f"{url}/table.parquet"),
        lambda url: version_of(f"{url}/shard.tar"),
        lambda url: expand(f"{url}/*.tar"),
    ],
    ids=["read", "range", "size", "set", "open", "seekable", "version", "glob"],
)
@pytest.mark.usefixtures("once")
def test_a_silent_web_server_times_out(
    operation: Callable[[str], object], silent: SilentServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not told that the file is missing, which fsspec reports of every failed request."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises((TimeoutError, Outage)):
        operation(f"{silent.endpoint}/x")


@pytest.mark.usefixtures("once")
def test_a_server_that_goes_silent_in_the_middle_of_a_body(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client library does not limit the time that sending takes."""
    ended = threading.Event()

    class OnlyHeads(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_error(404)

        def do_PUT(self) -> None:
            ended.wait()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), OnlyHeads)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    try:
        store = connected(Store("s3://bucket/x"))
        with pytest.raises(StoreError, match=r"given up after \d+ s of retries \(.*Timeout"):
            store.write("x", LARGE)
    finally:
        ended.set()
        server.shutdown()
        server.server_close()
