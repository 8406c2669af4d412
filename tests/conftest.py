"""What several rooms' tests share: one thread, no network, a small experiment, a store, an S3 server."""

import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Ray's clusters in tests ask for a token, which the processes of the tests inherit. Read when Ray is imported.
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))

import pytest
import torch
from xdist.scheduler.loadscope import LoadScopeScheduling

from vldd_dist.pipeline.context import execute
from vldd_dist.store.store import Store
from vldd_dist.testing.faulty_proxy import FaultyProxy
from vldd_dist.testing.s3_server import S3Server, s3_server
from vldd_dist.testing.tiny_units import plan

torch.set_num_threads(1)

# Folders whose tests share what is slow to make: one worker of pytest-xdist runs all tests of a group. Every other file is a
# group of its own. The longest groups come first, so that the workers end at about the same time.
GROUPS = {
    "a cluster": ("tests/cluster/",),
    "a finished experiment": ("tests/store/", "tests/artifacts/", "tests/distilled_set/"),
    "groups of ranks": ("tests/distributed/",),
}


def group_of(nodeid: str) -> str:
    """The group of a test: a key of `GROUPS`, or its file."""
    file = nodeid.partition("::")[0]
    return next((group for group, folders in GROUPS.items() if file.startswith(folders)), file)


class GroupScheduling(LoadScopeScheduling):
    """pytest-xdist's way to override what belongs together."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> GroupScheduling:
    return GroupScheduling(config, log)


# First: what selects by marks looks at the items afterwards.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need a server, ranks or a browser by their fixtures; put the longest groups first."""
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        for name, needed in (("s3", "server"), ("ranks", "group"), ("browser", "browser")):
            if needed in fixtures:
                item.add_marker(name)
    order = list(GROUPS)
    items.sort(key=lambda item: order.index(group) if (group := group_of(item.nodeid)) in order else len(order))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store in a folder of its own."""
    return Store(str(tmp_path / "store"))


@pytest.fixture(scope="session")
def server() -> Iterator[S3Server]:
    """A loopback S3 server, a real one where it is installed."""
    with s3_server() as server:
        yield server


@pytest.fixture(scope="session")
def browser() -> str:
    """Chromium's program; without it the test is skipped, or fails where VLDD_REQUIRE_BROWSER says that it must be there."""
    program = shutil.which("chromium")
    if program is None and os.environ.get("VLDD_REQUIRE_BROWSER"):
        pytest.fail("VLDD_REQUIRE_BROWSER is set, but chromium is not on PATH: install it")
    if program is None:
        pytest.skip("chromium is not on PATH")
    return program


@pytest.fixture
def s3(server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> S3Server:
    """The server as this process's environment names it, and a node's cache of the test's own."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("VLDD_CACHE_DIR", str(tmp_path / "cache"))
    return server


@pytest.fixture
def proxy(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """Between this process and the S3 server."""
    with FaultyProxy(s3.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        Thread(target=proxy.serve_forever, daemon=True).start()
        yield proxy
        proxy.shutdown()


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A tiny experiment, undisturbed."""
    store = Store(str(tmp_path_factory.mktemp("finished")))
    for unit in plan():
        execute(unit.order(), store, lambda event: None)
    return store
