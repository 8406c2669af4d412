"""Distilled sets at http(s):// URLs can be shown, fetched, verified and loaded, but not written."""

import contextlib
import gzip
import re
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.distilled_sets import distilled_set
from vldd_dist import load_distilled
from vldd_dist.cli.main import main
from vldd_dist.distilled_set.publishing.write import save
from vldd_dist.distilled_set.reading import verify
from vldd_dist.distilled_set.transfer.fetch import fetch
from vldd_dist.errors import StoreError
from vldd_dist.store import objects, retry
from vldd_dist.store.objects import DamagedObject
from vldd_dist.store.store import MissingObject, Store


class PlainHandler(SimpleHTTPRequestHandler):
    """`python -m http.server`, which does not support range requests."""

    def log_message(self, format: str, *args: object) -> None:
        pass


class RangeHandler(PlainHandler):
    """A server that answers as nginx, Apache and object stores do."""

    def do_GET(self) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if not asked:
            return super().do_GET()
        start, stop = int(asked[1]), int(asked[2]) + 1
        data = Path(self.translate_path(self.path)).read_bytes()
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{min(stop, len(data)) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data[start:stop])))
        self.end_headers()
        self.wfile.write(data[start:stop])
        return None


class BusyHandler(PlainHandler):
    """Refuses the first requests for one object, as object stores do if they get many at once."""

    status, refusals = 503, 2

    def refused(self) -> bool:
        if not (self.path.endswith("pairs.safetensors") and type(self).refusals):
            return False
        type(self).refusals -= 1
        self.send_error(self.status)
        return True

    def do_HEAD(self) -> None:
        if not self.refused():
            super().do_HEAD()

    def do_GET(self) -> None:
        if not self.refused():
            super().do_GET()


class SwellingHandler(PlainHandler):
    """Sends a small body that becomes a large one when it is decompressed."""

    sent = 0

    def do_GET(self) -> None:
        if not self.path.endswith(".safetensors"):
            return super().do_GET()
        self.send_response(200)
        self.send_encoding()
        self.end_headers()
        self.send_body()
        return None

    def send_encoding(self) -> None:
        self.send_header("Content-Encoding", "gzip")

    def send_body(self) -> None:
        self.wfile.write(gzip.compress(bytes(30 << 20), 9))


class EndlessHandler(SwellingHandler):
    """Sends more and more bytes."""

    def send_encoding(self) -> None:
        pass

    def send_body(self) -> None:
        with contextlib.suppress(ConnectionError):
            for _ in range(1000):
                self.wfile.write(bytes(1 << 20))
                type(self).sent += 1 << 20


class EndlessManifestHandler(EndlessHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.send_body()


class RefusingHandler(PlainHandler):
    def do_GET(self) -> None:
        self.send_error(int(self.path.split("/")[1]))


Serve = Callable[[type[SimpleHTTPRequestHandler]], str]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A set whose URL contains a space."""
    save(distilled_set(), str(tmp_path / "served" / "a set"))
    return tmp_path / "served" / "a set"


@pytest.fixture
def serve(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    servers = []

    def start(handler: type[SimpleHTTPRequestHandler]) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder.parent)))
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("handler", [PlainHandler, RangeHandler])
def test_a_set_is_shown_fetched_verified_and_loaded(
    handler: type[SimpleHTTPRequestHandler], serve: Serve, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"{serve(handler)}/a%20set/"
    assert load_distilled(url).digest == distilled_set().digest
    for arguments, words in (
        (["show", url], f"{url}preview.png"),
        (["verify", url], "all match the manifest"),
        (["fetch", url, str(tmp_path / "fetched")], "5 pairs in"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        printed = capsys.readouterr()
        assert ended.value.code == 0, printed
        assert words in printed.out.replace("\n", "")
    fetched = {path.name: path.read_bytes() for path in (tmp_path / "fetched").iterdir() if path.is_file()}
    assert fetched == {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_large_objects_are_read_by_ranges(serve: Serve, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "BLOCK_BYTES", 1000)
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    save(distilled_set(), str(folder))
    whole, ranges = serve(PlainHandler), serve(RangeHandler)
    fetch(f"{ranges}/a set", tmp_path / "fetched")
    assert load_distilled(str(tmp_path / "fetched")).digest == distilled_set().digest
    verify(f"{ranges}/a set")
    with pytest.raises(StoreError, match="does not support range requests"):
        verify(f"{whole}/a set")


def test_damage_is_found(serve: Serve, folder: Path, tmp_path: Path) -> None:
    url = f"{serve(RangeHandler)}/a set"
    pairs = folder / "pairs.safetensors"
    data = pairs.read_bytes()
    for damaged in (data[:-1] + bytes([data[-1] ^ 1]), data[:-1], data + b"more"):
        pairs.write_bytes(damaged)
        for operation in (verify, lambda url: fetch(url, tmp_path / "fetched")):
            with pytest.raises(DamagedObject, match=r"pairs\.safetensors: .*damaged"):
                operation(url)
        with pytest.raises(DamagedObject, match=r"pairs\.safetensors: .*damaged"):
            load_distilled(url)
    pairs.unlink()
    with pytest.raises(MissingObject, match=r"a set/pairs\.safetensors: no such object"):
        load_distilled(url)
    with pytest.raises(MissingObject, match=r"manifest\.json: no such object"):
        verify(f"{url}-of another name")


def test_refused_and_failed_requests_are_one_sentence_errors(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    url = serve(RefusingHandler)
    monkeypatch.setattr(retry, "DEADLINE_SECONDS", 0.2)
    with pytest.raises(StoreError, match=r"permission denied at manifest\.json"):
        verify(f"{url}/403")
    with pytest.raises(StoreError, match=r"manifest.json: given up after \d+ s of retries \(ClientResponseError: HTTP 503"):
        verify(f"{url}/503")


def test_throttled_requests_for_a_size_are_retried(serve: Serve, tmp_path: Path) -> None:
    """fsspec reports every failed request for a size as a missing object."""
    BusyHandler.status, BusyHandler.refusals = 503, 2
    fetch(f"{serve(BusyHandler)}/a set", tmp_path / "fetched")
    assert BusyHandler.refusals == 0
    BusyHandler.status, BusyHandler.refusals = 403, 100
    with pytest.raises(StoreError, match=r"permission denied at pairs\.safetensors"):
        verify(f"{serve(BusyHandler)}/a set")


@pytest.mark.parametrize("handler", [SwellingHandler, EndlessHandler])
def test_a_body_that_is_larger_than_the_object_is_not_read(
    handler: type[SwellingHandler], serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler.sent, url, sizes = 0, f"{serve(handler)}/a set", []
    read = Store.read

    def measured(self: Store, key: str, at_most: int | None = None) -> bytes:
        data = read(self, key, at_most)
        sizes.append(len(data) - (at_most or 0))
        return data

    monkeypatch.setattr(Store, "read", measured)
    for look in (load_distilled, verify):
        with pytest.raises(DamagedObject, match=r"pairs\.safetensors: .* bytes, its manifest says"):
            look(url)
    assert max(sizes) <= 1
    assert handler.sent < 100 << 20, "what the buffers of two connections take"


def test_a_manifest_without_end_is_not_read(serve: Serve) -> None:
    EndlessManifestHandler.sent = 0
    for look in (load_distilled, verify):
        with pytest.raises(StoreError, match=r"manifest\.json: more than 64 MiB: this is no manifest of a distilled set"):
            look(f"{serve(EndlessManifestHandler)}/a set")
    assert EndlessManifestHandler.sent < 400 << 20


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(
    "arguments", [["run", "jobs/presets/scenes.yaml", "--store"], ["submit", "jobs/presets/scenes.yaml", "--store"], ["gc"]]
)
def test_commands_that_write_refuse_a_web_server(scheme: str, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*arguments, f"{scheme}://127.0.0.1:9/store"])
    assert ended.value.code == 4
    assert f"{scheme}://127.0.0.1:9/store: {scheme}:// can only be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    "operation", [Store.check_writable, lambda store: store.create("x", b""), lambda store: store.delete(["x"])]
)
def test_http_stores_cannot_be_written_from_python(operation: Callable[[Store], Any]) -> None:
    with pytest.raises(StoreError, match="can only be read"):
        operation(Store("https://127.0.0.1:9/store"))
    with pytest.raises(StoreError, match="can only be read"):
        save(distilled_set(), "https://127.0.0.1:9/set")


def test_a_listing_and_a_query_are_refused() -> None:
    with pytest.raises(StoreError, match="a web server does not list objects"):
        Store("http://127.0.0.1:9/store").keys("distilled")
    with pytest.raises(StoreError, match="cannot have a query or fragment"):
        Store("https://host/set?signature=x")
