"""An HTTP proxy in front of an S3 server that injects faults: S3's errors, cut connections, lost answers, delays."""

import http.client
import socket
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import urlsplit

from vldd_dist.testing.servers.s3_server import ACCESS_KEY

STATUS = {
    "SlowDown": 503,
    "ServiceUnavailable": 503,
    "InternalError": 500,
    "ConditionalRequestConflict": 409,
    "BadDigest": 400,
    "ExpiredToken": 400,
    "AccessDenied": 403,
    "InvalidObjectState": 403,
    "RequestTimeTooSkewed": 403,
}
DELAY_SECONDS = 0.3


class FaultyProxy(ThreadingHTTPServer):
    """Each request removes and applies the first of `faults`:

    an error code of S3         the request does not reach the server
    "cut"                       the connection ends without an answer, before the request reaches the server
    "cut upload"                the connection ends in the middle of the request's body
    "cut body"                  the connection ends in the middle of the answer's body
    "answer lost"               the server executes the request, but its answer is lost
    "delay"                     the answer arrives late
    ""                          no fault
    """

    daemon_threads = True

    def __init__(self, endpoint: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.upstream = urlsplit(endpoint).netloc
        self.faults: list[str] = []
        self.bytes_sent = 0

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that close the connection are expected."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyProxy
    dropped: ClassVar = {"transfer-encoding", "connection", "content-length"}

    def forward(self) -> None:
        length = int(self.headers.get("content-length", 0))
        fault = self.server.faults.pop(0) if self.server.faults else ""
        if fault == "cut upload":
            self.rfile.read(length // 2)
            return self.hang_up()
        body = self.rfile.read(length)
        if fault == "cut":
            return self.hang_up()
        if fault == "BadDigest" and not body:
            fault = ""  # It applies only to requests with a body.
        if fault in STATUS:
            xml = f"<Error><Code>{fault}</Code><Message>{fault} of {ACCESS_KEY}</Message></Error>".encode()
            return self.answer(STATUS[fault], {"content-type": "application/xml"}, xml, str(len(xml)))
        upstream = http.client.HTTPConnection(self.server.upstream)
        upstream.request(self.command, self.path, body, dict(self.headers))
        response = upstream.getresponse()
        content = response.read()
        upstream.close()
        if fault == "answer lost":
            return self.hang_up()
        if fault == "delay":
            time.sleep(DELAY_SECONDS)
        length_header = response.headers["content-length"] if self.command == "HEAD" else str(len(content))
        if fault == "cut body":
            content = content[: len(content) // 2]
        self.answer(response.status, dict(response.headers), content, length_header)
        if fault == "cut body":
            self.hang_up()
        return None

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = forward

    def answer(self, status: int, headers: dict[str, str], content: bytes, length: str | None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in self.dropped:
                self.send_header(name, value)
        self.send_header("content-length", length or "0")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
            self.server.bytes_sent += len(content)

    def hang_up(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: object) -> None:
        pass
