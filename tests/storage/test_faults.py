"""Faults of an S3 server, made by a proxy before it: throttling, failures, cut connections, lost answers, expired tokens."""

import http.client
import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import ClassVar
from urllib.parse import urlsplit

import pytest

from tests.s3_server import ACCESS_KEY, SECRET, S3Server
from vldd_dist.errors import StoreError
from vldd_dist.storage import faults
from vldd_dist.storage.store import Store

STATUS = {"SlowDown": 503, "InternalError": 500, "ServiceUnavailable": 503, "ExpiredToken": 400, "AccessDenied": 403}
# The client library's own retries are off, so that each fault reaches the store.
ONE_ATTEMPT = {"config_kwargs": {"retries": {"total_max_attempts": 1}}}


class FaultyProxy(ThreadingHTTPServer):
    """Forwards to an S3 server; each request takes one fault from `faults`: an S3 error code, "cut" (before it reaches
    the server) or "answer lost" (after)."""

    daemon_threads = True

    def __init__(self, endpoint: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.upstream = urlsplit(endpoint).netloc
        self.faults: list[str] = []


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyProxy
    dropped: ClassVar = {"transfer-encoding", "connection", "content-length"}

    def forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        fault = self.server.faults.pop(0) if self.server.faults else ""
        if fault == "cut":
            return self.hang_up()
        if fault in STATUS:
            xml = f"<Error><Code>{fault}</Code><Message>{fault} of {ACCESS_KEY}</Message></Error>".encode()
            return self.answer(STATUS[fault], {"content-type": "application/xml"}, xml)
        upstream = http.client.HTTPConnection(self.server.upstream)
        upstream.request(self.command, self.path, body, dict(self.headers))
        response = upstream.getresponse()
        content = response.read()
        upstream.close()
        if fault == "answer lost":
            return self.hang_up()
        length = response.headers["content-length"] if self.command == "HEAD" else None
        return self.answer(response.status, dict(response.headers), content, length)

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = forward

    def answer(self, status: int, headers: dict[str, str], content: bytes, length: str | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in self.dropped:
                self.send_header(name, value)
        self.send_header("content-length", length or str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def proxy(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    with FaultyProxy(s3.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.server_port}")
        Thread(target=proxy.serve_forever, daemon=True).start()
        yield proxy
        proxy.shutdown()


@pytest.fixture
def s3_store(proxy: FaultyProxy, request: pytest.FixtureRequest) -> Store:
    bucket = f"faults-{abs(hash(request.node.name)) % 10**9}"
    store = Store(f"s3://{bucket}/experiment", **ONE_ATTEMPT)
    store.fs.mkdir(bucket)
    return store


@pytest.mark.parametrize("fault", ["SlowDown", "InternalError", "ServiceUnavailable", "cut"])
def test_transient_faults_are_ridden_out(s3_store: Store, proxy: FaultyProxy, fault: str) -> None:
    proxy.faults = [fault] * 3
    s3_store.write("x", b"1")
    assert not proxy.faults
    proxy.faults = [fault] * 3
    assert s3_store.read("x") == b"1"
    assert not proxy.faults


def test_a_create_whose_answer_is_lost_is_won_once(s3_store: Store, proxy: FaultyProxy) -> None:
    proxy.faults = ["answer lost"]
    assert s3_store.create("mark", b"ours")
    assert not s3_store.create("mark", b"theirs")
    proxy.faults = ["answer lost"]
    assert not s3_store.create("mark", b"theirs")
    assert s3_store.read("mark") == b"ours"


def test_faults_without_end_are_given_up_within_the_bound(
    s3_store: Store, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "RETRY_SECONDS", 0.5)
    proxy.faults = ["InternalError"] * 10_000
    with pytest.raises(StoreError, match=r"x: given up after 0\.5 s of retries \(OSError"):
        s3_store.read("x")


def test_a_refusal_is_one_sentence_at_once(s3_store: Store, proxy: FaultyProxy) -> None:
    proxy.faults = ["AccessDenied", "SlowDown"]
    with pytest.raises(StoreError, match="permission denied at x: give this user or role") as caught:
        s3_store.write("x", b"1")
    assert proxy.faults == ["SlowDown"], "a refusal is not tried again"
    assert SECRET not in str(caught.value)
    assert ACCESS_KEY not in str(caught.value)


def test_an_expired_token_is_renewed_once(s3_store: Store, proxy: FaultyProxy) -> None:
    before = s3_store.fs
    proxy.faults = ["ExpiredToken"]
    s3_store.write("x", b"1")
    assert s3_store.fs is not before
    proxy.faults = ["ExpiredToken"]
    assert s3_store.read("x") == b"1", "a HEAD, whose refusal names no reason"
    proxy.faults = ["ExpiredToken"] * 2
    with pytest.raises(StoreError, match="the credentials have expired or are refused"):
        s3_store.write("x", b"1")
