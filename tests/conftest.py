"""Settings and fixtures that tests of several folders share: one thread, no network, a small experiment, a store, an S3
server."""

import gc
import os
import pkgutil
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Ray clusters in tests require a token, which child processes inherit. Ray reads it when it is imported.
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))

import pytest
import torch
from xdist.scheduler.loadscope import LoadScopeScheduling

from vldd_dist.models.libraries import import_torchvision
from vldd_dist.pipeline.execute import execute
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny_units import plan
from vldd_dist.testing.servers.faulty_proxy import FaultyProxy
from vldd_dist.testing.servers.s3_server import S3Server, s3_server

torch.set_num_threads(1)
# A failed assertion shows its values in the modules beside the tests too.
pytest.register_assert_rewrite(*(f"tests.{module.name}" for module in pkgutil.iter_modules([str(Path(__file__).parent)])))
# Some tests import timm or transformers themselves, which need a torchvision that can be imported.
import_torchvision()

# Folders whose tests share slow fixtures: one worker of pytest-xdist runs all tests of a group. Every other file is its own
# group. The longest groups come first, so that the workers end at about the same time.
GROUPS = {
    "a cluster": ("tests/cluster/",),
    "a finished experiment": ("tests/store/", "tests/artifacts/", "tests/distilled_set/"),
    "the pipeline's experiment": ("tests/pipeline/",),
    "groups of ranks": ("tests/distributed/",),
}


def group_of(nodeid: str) -> str:
    """The group of a test: a key of `GROUPS`, or its file."""
    file = nodeid.partition("::")[0]
    return next((group for group, folders in GROUPS.items() if file.startswith(folders)), file)


class GroupScheduling(LoadScopeScheduling):
    """The hook by which pytest-xdist assigns tests to groups."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> GroupScheduling:
    return GroupScheduling(config, log)


# Must run first: selection by marks looks at the items afterwards.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need a server, ranks, a browser or a GPU by their fixtures; put the longest groups first."""
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        for name, needed in (("s3", "server"), ("ranks", "group"), ("browser", "browser"), ("gpu", "gpu")):
            if needed in fixtures:
                item.add_marker(name)
    order = list(GROUPS)
    items.sort(key=lambda item: order.index(group) if (group := group_of(item.nodeid)) in order else len(order))


def pytest_collection_finish() -> None:
    """Exclude all objects that exist now from later garbage collections."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store in a folder."""
    return Store(str(tmp_path / "store"))


@pytest.fixture
def any_facts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accept any facts of units: for tests in which units are committed without being computed."""
    monkeypatch.setattr("vldd_dist.artifacts.manifests.UnitManifest.check_facts", lambda self, source: None)


@pytest.fixture(scope="session")
def server() -> Iterator[S3Server]:
    """An S3 server on loopback; a real one if it is installed."""
    with s3_server() as server:
        yield server


@pytest.fixture(scope="session")
def real_server(server: S3Server) -> S3Server:
    """The server if it is a real one, else the test is skipped: for long tests, which would show no more with a mock server
    than short tests do."""
    if not server.real:
        pytest.skip("Ceph's RGW is not installed")
    return server


@pytest.fixture(scope="session")
def browser() -> str:
    """The path of Chromium. Without it the test is skipped, or fails if VLDD_REQUIRE_BROWSER is set."""
    program = shutil.which("chromium")
    if program is None and os.environ.get("VLDD_REQUIRE_BROWSER"):
        pytest.fail("VLDD_REQUIRE_BROWSER is set, but chromium is not on PATH: install it")
    if program is None:
        pytest.skip("chromium is not on PATH")
    return program


@pytest.fixture
def s3(server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> S3Server:
    """The server, with this process's environment set to use it and an empty node cache."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("VLDD_CACHE_DIR", str(tmp_path / "cache"))
    return server


@pytest.fixture
def proxy(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """A proxy between this process and the S3 server."""
    with FaultyProxy(s3.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        Thread(target=proxy.serve_forever, daemon=True).start()
        yield proxy
        proxy.shutdown()


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The store of a tiny experiment that ran without interruption."""
    store = Store(str(tmp_path_factory.mktemp("finished")))
    for unit in plan():
        execute(unit.order(), store, lambda event: None)
    return store
