"""An S3 server on loopback, for tests and benchmarks: Ceph's RGW if it is installed, else moto's server, a mock.

    radosgw, ceph-mon, ceph-osd, ceph-common        the Debian packages of RGW

With `VLDD_REQUIRE_CEPH=1`, which the gate sets, a missing RGW is an error.
"""

import logging
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from vldd_dist.testing.servers.ports import free_port

ACCESS_KEY = "AKIAVLDDTEST"
SECRET = "wJalrXUtnFEMI-a-secret-of-the-tests"
CEPH_PROGRAMS = ("radosgw", "ceph-mon", "ceph-osd", "ceph", "radosgw-admin", "ceph-authtool", "monmaptool")
START_SECONDS = 120

# The smallest cluster that serves S3: one monitor, one store in memory, no replicas, no manager.
CONFIG = """
[global]
fsid = {fsid}
mon host = v2:127.0.0.1:{mon_port}
public addr = 127.0.0.1
keyring = {folder}/keyring
run dir = {folder}/run
admin socket = {folder}/run/$name.asok
pid file = {folder}/run/$name.pid
log file = {folder}/$name.log
crash dir = {folder}/crash
auth allow insecure global id reclaim = false
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
osd class load list = *
osd class default list = *
mon allow pool size one = true
mon max pg per osd = 1000
[mon]
mon data = {folder}/mon
mon initial members = a
[osd]
osd data = {folder}/osd
osd objectstore = memstore
memstore device bytes = 4294967296
osd memory target = 939524096
osd op num shards = 2
osd op num threads per shard = 1
[client.rgw]
rgw data = {folder}/rgw
rgw frontends = beast endpoint=127.0.0.1:{port}
rgw thread pool size = 32
rgw dynamic resharding = false
rgw multipart min part size = 1
# The space of deleted objects is freed within seconds, because all objects are kept in memory.
rgw gc obj min wait = 5
rgw gc processor period = 5
rgw gc max concurrent io = 50
"""


@dataclass(frozen=True)
class S3Server:
    """A running server. `real` is True for RGW and False for the mock, which checks no signatures."""

    endpoint: str
    real: bool

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables with which a process uses the server: endpoint and credentials."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
        }


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """A running server with an empty store. Unlike S3 it accepts parts of less than 5 MiB. Prints one line when it is only the
    mock."""
    missing = [program for program in CEPH_PROGRAMS if shutil.which(program) is None]
    if not missing:
        with (
            tempfile.TemporaryDirectory(prefix="vldd-rgw-", ignore_cleanup_errors=True) as folder,
            _ceph(Path(folder)) as endpoint,
        ):
            yield S3Server(endpoint, real=True)
        return
    if os.environ.get("VLDD_REQUIRE_CEPH"):
        raise RuntimeError(f"VLDD_REQUIRE_CEPH is set, but {', '.join(missing)} is not installed")
    print(f"S3 server: moto, a mock, because {missing[0]} is not installed", file=sys.stderr)
    with _moto() as endpoint:
        yield S3Server(endpoint, real=False)


@contextmanager
def _moto() -> Iterator[str]:
    from moto.s3.responses import S3Response
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    # moto answers every request in its own thread, and a conditional put looks for the object before it stores it: two puts at
    # the same moment would both succeed.
    put, one_at_a_time = S3Response.put_object, threading.Lock()

    def put_object(response: S3Response) -> Any:
        with one_at_a_time:
            return put(response)

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with patch.object(S3Response, "put_object", put_object), patch("moto.s3.models.S3_UPLOAD_PART_MIN_SIZE", 1):
        try:
            yield f"http://{host}:{port}"
        finally:
            server.stop()


@contextmanager
def _ceph(folder: Path) -> Iterator[str]:
    port, mon_port = free_port(), free_port()
    for name in ("mon", "osd", "rgw", "run"):
        (folder / name).mkdir()
    config = folder / "ceph.conf"
    config.write_text(CONFIG.format(folder=folder, port=port, mon_port=mon_port, fsid=uuid.uuid4()))
    daemons: list[subprocess.Popen[bytes]] = []

    def run(program: str, *arguments: str) -> None:
        ended = subprocess.run([program, *arguments], cwd=folder, capture_output=True, text=True, timeout=START_SECONDS)
        if ended.returncode:
            raise RuntimeError(f"{program} {' '.join(arguments)}: {ended.stderr.strip()}")

    def start(program: str, *arguments: str) -> None:
        # In the foreground, so that the daemon is a child of this process and can be stopped.
        log = (folder / f"{program}.out").open("wb")
        daemons.append(
            subprocess.Popen([program, "-c", str(config), "-f", *arguments], cwd=folder, stdout=log, stderr=subprocess.STDOUT)
        )

    try:
        _make_keys(run)
        fsid = next(line.split()[2] for line in config.read_text().splitlines() if line.startswith("fsid"))
        run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", f"[v2:127.0.0.1:{mon_port}]", "monmap")
        run("ceph-mon", "-c", str(config), "--mkfs", "-i", "a", "--monmap", "monmap", "--keyring", "keyring")
        start("ceph-mon", "-i", "a")
        osd_id = str(uuid.uuid4())
        run("ceph", "-c", str(config), "--connect-timeout", "60", "osd", "new", osd_id)
        run("ceph-osd", "-c", str(config), "-i", "0", "--mkfs", "--osd-uuid", osd_id)
        start("ceph-osd", "-i", "0")
        start("radosgw", "-n", "client.rgw")
        endpoint = f"http://127.0.0.1:{port}"
        _wait_for(endpoint)
        run(
            "radosgw-admin", "-c", str(config), "-n", "client.rgw", "user", "create", "--uid=tests", "--display-name=tests",
            f"--access-key={ACCESS_KEY}", f"--secret-key={SECRET}",
        )  # fmt: skip
        yield endpoint
    finally:
        for daemon in reversed(daemons):
            daemon.kill()
            daemon.wait()


def _make_keys(run: Callable[..., None]) -> None:
    run("ceph-authtool", "--create-keyring", "keyring", "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
    for name, rights in (
        ("client.admin", {"mon": "allow *", "osd": "allow *", "mgr": "allow *"}),
        ("client.rgw", {"mon": "allow rw", "osd": "allow rwx"}),
        ("osd.0", {"mon": "allow profile osd", "osd": "allow *"}),
    ):
        caps = [word for daemon, right in rights.items() for word in ("--cap", daemon, right)]
        run("ceph-authtool", "keyring", "--gen-key", "-n", name, *caps)


def _wait_for(endpoint: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(endpoint, timeout=5).close()
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"the S3 server did not answer at {endpoint} within {START_SECONDS} s")
