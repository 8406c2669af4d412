"""Files on servers: shards in ranges, continued after faults, by spawned workers and webdataset; servers without ranges."""

import contextlib
import gzip
import io
import json
import random
import tarfile
import threading
import urllib.parse
from collections.abc import Iterator
from functools import partial
from hashlib import sha256
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import torch
import webdataset

from vldd_dist.artifacts.tensor_files import tensors
from vldd_dist.config.sections.model import ImageTowerSettings
from vldd_dist.data.files.json_files import read_json
from vldd_dist.data.files.shards import register_openers, samples_of
from vldd_dist.data.files.versions import version_of
from vldd_dist.data.sources.tables.lines import SeparatedValues
from vldd_dist.data.sources.tables.parquet import Parquet
from vldd_dist.models.image.identity import weights_identity
from vldd_dist.store import retry
from vldd_dist.store.store import Store
from vldd_dist.store.user_files import opening
from vldd_dist.store.user_files.opening import open_seekable, open_url
from vldd_dist.testing.servers.faulty_proxy import FaultyProxy
from vldd_dist.testing.servers.s3_server import S3Server

IMAGES = 40


def tar_of_noise() -> bytes:
    dice, buffer = random.Random(0), io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for number in range(IMAGES):
            for suffix, data in (("bin", dice.randbytes(50_000)), ("txt", f"caption {number}".encode())):
                info = tarfile.TarInfo(f"{number:04d}.{suffix}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@pytest.fixture
def shard(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a shard of 2 MB, read in ranges of 100 kB."""
    monkeypatch.setattr(opening, "RANGE_BYTES", 100_000)
    store = Store("s3://opener/x")
    if not store.fs.exists("opener"):
        store.fs.mkdir("opener")
    store.write("a.tar", tar_of_noise())
    return store.url_of("a.tar")


def test_a_shard_is_read_in_ranges_no_further_than_asked(shard: str, s3: S3Server) -> None:
    with open_url(shard) as stream:
        assert stream.read(50_000) == tar_of_noise()[:50_000]
    with open_url(shard) as stream:
        assert stream.read() == tar_of_noise()
        assert stream.read(1) == b""


@pytest.mark.parametrize("fault", ["cut body", "SlowDown", "cut", "delay"])
def test_a_fault_in_the_middle_of_a_tar_costs_a_range(shard: str, s3: S3Server, fault: str, proxy: FaultyProxy) -> None:
    expected = [sample["txt"] for sample in samples_of("a.tar", io.BytesIO(tar_of_noise()))]
    proxy.faults = [""] * 5 + [fault, "", "", fault, "", fault]
    before = proxy.bytes_sent
    with open_url(shard) as stream:
        found = [sample["txt"] for sample in samples_of(shard, stream)]
    assert found == expected
    assert not proxy.faults
    assert proxy.bytes_sent - before < 1.3 * len(tar_of_noise()), "bytes that had arrived are not requested again"


def test_a_fault_in_the_middle_of_weights_costs_a_range(shard: str, s3: S3Server, proxy: FaultyProxy) -> None:
    weights = tensors.encode({"w": torch.rand(500_000)})
    url = shard.replace("a.tar", "weights.safetensors")
    Store("s3://opener/x").write("weights.safetensors", weights)
    before = proxy.bytes_sent
    for read in (
        lambda: weights_identity(ImageTowerSettings(weights=url)),
        lambda: tensors.read_file(url, sha256(weights).hexdigest()),
    ):
        proxy.faults = [""] * 5 + ["cut body", "", "", "SlowDown"]
        read()
        assert not proxy.faults
    assert proxy.bytes_sent - before < 2 * 1.3 * len(weights)


def test_a_fault_in_the_middle_of_a_parquet_costs_a_range(shard: str, s3: S3Server, proxy: FaultyProxy) -> None:
    url, buffer = shard.replace("a.tar", "a.parquet"), io.BytesIO()
    numbers = list(range(100_000))
    pyarrow.parquet.write_table(pyarrow.table({"n": numbers}), buffer, row_group_size=20_000)
    Store("s3://opener/x").write("a.parquet", buffer.getvalue())
    before = proxy.bytes_sent
    proxy.faults = ["", "", "cut body", "", "SlowDown"]
    assert [row.values for row in Parquet(url).rows(["n"], 0, None)] == [[number] for number in numbers]
    assert not proxy.faults
    assert proxy.bytes_sent - before < 3 * len(buffer.getvalue())


def test_plain_webdataset_in_spawned_workers(shard: str) -> None:
    """A spawned process has no registered openers; `worker_init_fn` registers them."""
    pipeline = webdataset.WebDataset(shard, shardshuffle=False).to_tuple("__key__", "txt")
    loader = torch.utils.data.DataLoader(
        pipeline, batch_size=None, num_workers=1, multiprocessing_context="spawn", worker_init_fn=register_openers
    )
    assert [key for key, _ in loader] == [f"{number:04d}" for number in range(IMAGES)]
    register_openers()
    assert len(list(pipeline)) == IMAGES


def test_names_with_spaces_and_accents(s3: S3Server) -> None:
    store = Store("s3://opener/x")
    if not store.fs.exists("opener"):
        store.fs.mkdir("opener")
    store.write("a b é.tar", tar_of_noise())
    with open_url(store.url_of("a b é.tar")) as stream:
        assert len(stream.read()) == len(tar_of_noise())
    assert urllib.parse.quote("é") not in store.url_of("a b é.tar")


def test_a_web_server_has_the_time_limits_and_proxies_of_the_stores() -> None:
    """Not aiohttp's 300 seconds for a whole body, in which a tar that is prepared meanwhile does not arrive."""
    client = opening.file_system("https://host/a.tar")[0].client_kwargs
    limits = client["timeout"]
    assert (limits.total, limits.sock_connect, limits.sock_read) == (None, retry.CONNECT_SECONDS, retry.READ_SECONDS)
    assert client["trust_env"]


class WithoutRanges(SimpleHTTPRequestHandler):
    """Sends whole files, as `python -m http.server` does, and counts their bytes. Files whose names end in .json are sent as
    they are stored, compressed. The first `refusals` requests are refused."""

    sent = refusals = 0

    def send_head(self) -> Any:
        if WithoutRanges.refusals:
            WithoutRanges.refusals -= 1
            return self.send_error(503)
        return super().send_head()

    def end_headers(self) -> None:
        if self.path.endswith(".json"):
            self.send_header("Content-Encoding", "gzip")
        super().end_headers()

    def copyfile(self, source: Any, outputfile: Any) -> None:
        with contextlib.suppress(ConnectionError):
            while data := source.read(1 << 16):
                outputfile.write(data)
                WithoutRanges.sent += len(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The URL of a web server that ignores ranges."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(WithoutRanges, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_web_server_that_ignores_ranges(tmp_path: Path) -> None:
    """The file is then read as one stream, which arrives in pieces."""
    data = random.Random(0).randbytes(6 << 20)
    (tmp_path / "weights.safetensors").write_bytes(data)
    (tmp_path / "small.safetensors").write_bytes(data[:1000])
    with serving(tmp_path) as url:
        for start in (0, 1500, 5 << 20):
            with open_url(f"{url}/weights.safetensors", start) as file:
                assert file.read() == data[start:]
        for start in (0, 500):
            with open_url(f"{url}/small.safetensors", start) as file:
                assert file.read() == data[start:1000]
        with pytest.raises(OSError, match="the server does not send parts of files: download it"):
            open_seekable(f"{url}/weights.safetensors")


def test_a_file_that_a_web_server_stores_compressed(tmp_path: Path) -> None:
    data = json.dumps({"images": list(range(200_000))}).encode()
    (tmp_path / "dataset.json").write_bytes(gzip.compress(data))
    with serving(tmp_path) as url:
        assert read_json(f"{url}/dataset.json", "dataset") == json.loads(data)
        with open_url(f"{url}/dataset.json", 1000) as file:
            assert file.read(10) == data[1000:1010]


def test_a_web_server_that_is_busy_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.csv").write_text("image,caption\n")
    with serving(tmp_path) as url:
        for look in (lambda: version_of(f"{url}/a.csv").size, lambda: len(open_url(f"{url}/a.csv").read())):
            # HEAD and GET of the first attempt, and HEAD of the second.
            monkeypatch.setattr(WithoutRanges, "refusals", 3)
            assert look() == len("image,caption\n")
            assert not WithoutRanges.refusals


def test_whether_a_web_server_ignores_ranges_costs_no_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open(tmp_path / "a.tar", "wb") as file:
        file.truncate(64 << 20)
    monkeypatch.setattr(WithoutRanges, "sent", 0)
    with serving(tmp_path) as url, pytest.raises(OSError, match="does not send parts"):
        open_seekable(f"{url}/a.tar")
    assert WithoutRanges.sent < 16 << 20


def test_a_table_on_a_web_server_that_ignores_ranges(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("image,caption\n" + "".join(f"{number}.jpg,{number:0100d}\n" for number in range(50_000)))
    with serving(tmp_path) as url:
        table = SeparatedValues(f"{url}/a.csv", None)
        assert table.columns == ["image", "caption"]
        half = len("image,caption\n") + sum(len(f"{number}.jpg,{number:0100d}\n") for number in range(45_000))
        assert [row.values for row in table.rows(["image"], half, None)] == [
            [f"{number}.jpg"] for number in range(45_000, 50_000)
        ]
