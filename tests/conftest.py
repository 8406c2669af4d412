"""What several rooms' tests share: one thread, no network, a small experiment, a store, an S3 server."""

import os
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch

from tests.faulty_proxy import FaultyProxy
from tests.s3_server import S3Server, s3_server
from vldd_dist.storage.store import Store

torch.set_num_threads(1)

# Overrides that turn the demo into seconds; random weights spare the pretraining.
TINY = [
    "data.train_images=48",
    "data.val_images=12",
    "data.test_images=12",
    "data.shard_images=16",
    "model.image.weights=random",
    "experts.count=2",
    "experts.epochs=3",
    "experts.batch_size=16",
    "experts.momentum=0.5",
    "distill.pairs=[4]",
    "distill.outer_steps=6",
    "distill.inner_steps=2",
    "distill.gradient=exact",
    "distill.max_start_epoch=1",
    "distill.validate_every=3",
    "distill.checkpoint_every=2",
    "coresets.methods=[random, k_center, forgetting]",
    "evaluation.seeds=[0]",
    "evaluation.epochs=2",
    "evaluation.learning_rates=[0.03]",
]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store in a folder of its own."""
    return Store(str(tmp_path / "store"))


@pytest.fixture(scope="session")
def server() -> Iterator[S3Server]:
    """A loopback S3 server, a real one where it is installed."""
    with s3_server() as server:
        yield server


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
