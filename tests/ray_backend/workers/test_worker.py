"""The outcome of an attempt for each kind of error of its unit."""

import itertools
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.ray_backend.workers.dropped_reports import Reports
from vldd_dist.artifacts.units import mark_store
from vldd_dist.coresets.base import Coreset
from vldd_dist.coresets.candidates import Candidates
from vldd_dist.errors import DataError, OtherVersion, Outage, UnusableHere
from vldd_dist.events import Progress, SendReport
from vldd_dist.pipeline.execute import check_version
from vldd_dist.pipeline.outcome import Outcome
from vldd_dist.pipeline.stage import stage_of
from vldd_dist.pipeline.stages.data import caption_embeddings
from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.plugins import CORESETS, METRICS, STAGES, Registry
from vldd_dist.ray_backend.workers import start, worker
from vldd_dist.sharding.ranks import LostRank, Ranks
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny_experiment import experiment, units_of
from vldd_dist.testing.scripted_executor import make


@pytest.mark.parametrize(
    ("error", "status", "exit_code"),
    [
        (DataError("a.jpg: damaged"), "refused", 4),
        # Another machine may be able to.
        (UnusableHere("s3://bucket: no credentials"), "broken", 4),
        (Outage("s3://bucket/x: given up after 60 s"), "outage", 4),
        (LostRank("connection closed"), "lost", 1),
        (ImportError("no module"), "broken", 1),
        (ValueError("a bug"), "crashed", 1),
    ],
)
def test_an_error_of_the_unit_becomes_an_outcome(
    error: Exception, status: str, exit_code: int, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def execute(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(worker, "execute", execute)
    mark_store(store)
    found = worker.run_order(make("unit").order(), store, Reports(), "n1")  # type: ignore[arg-type]
    assert (found.status, found.exit_code) == (status, exit_code)
    assert found.cause.endswith(str(error))


@pytest.mark.parametrize(("world", "gpus", "device"), [(2, 1, "cuda"), (2, 0, "cpu"), (1, 1, None)])
def test_a_rank_whose_gpu_waits_for_another_sends_why_and_ends(
    world: int, gpus: float, device: str | None, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its main thread is blocked in a collective operation, and returns nothing."""
    mark_store(store)
    watched: list[tuple[str, float]] = []
    left: list[Any] = []
    within: list[bool] = []

    @contextmanager
    def watching(device: torch.device, timeout: timedelta, on_hang: Callable[[str], None]) -> Iterator[None]:
        watched.append((device.type, timeout.total_seconds()))
        within.append(True)
        on_hang("its GPU waits")
        yield
        within.clear()

    monkeypatch.setattr(worker, "watching", watching)
    monkeypatch.setattr(worker, "execute", lambda *arguments: left.append(list(within)))
    monkeypatch.setattr(start, "leave", lambda *arguments: left.append(arguments))
    order = replace(make("unit", gpus=gpus, workers=world).order(), rank_timeout_seconds=7)
    reports = Reports()
    worker.run_order(order, store, reports, "n1", Ranks(world - 1, world))  # type: ignore[arg-type]
    assert watched == ([(device, 7)] if device else [])
    answer = asdict(Outcome("lost", "its GPU waits", 1, node="n1"))
    assert left == ([(answer, order.id, reports, 1), [True]] if device else [[]])


def test_a_unit_does_not_run_where_the_folder_of_the_store_is_not_mounted(store: Store) -> None:
    """The mount point is an empty folder there. What is committed in it would be lost."""
    (unit, *_) = units_of(experiment(), "shard_group")
    found = worker.run_order(unit.order(), store, Reports(), "n1")  # type: ignore[arg-type]
    assert (found.status, found.exit_code) == ("broken", 4)
    assert found.cause == (
        f"{store.url}: on the machine {platform.node()} this is not the store of the run: mount the same folder on every "
        "machine, or use a store in a bucket (s3://...)"
    )
    assert store.fs.find(store.root) == []


def test_a_machine_with_another_version_of_the_package_computes_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with an older image: what it computes would be committed under the id of the driver's version."""
    monkeypatch.setattr(worker, "start_logging", lambda: None)
    monkeypatch.setattr(worker, "join", lambda *arguments, **more: pytest.fail("a rank tried to reach the others"))
    mark_store(store)
    (unit, *_) = units_of(experiment(), "shard_group")
    orders = [replace(unit, version=unit.version + 1).order(), replace(unit, kind="a_stage_of_later").order()]
    # The stage has the same version there, and the order's class has other fields.
    for field in ("worker_gpus", "label"):
        order = unit.order()
        vars(order)[f"{field}_of_later"] = vars(order).pop(field)
        orders.append(order)
    # Also if it is a rank of a unit, before it tries to reach the others.
    for order, rendezvous in itertools.product(orders, [None, ("127.0.0.1", 9)]):
        found = worker.run_checked(order, store, Reports(), "n1", rendezvous, 0)  # type: ignore[arg-type]
        assert (found["status"], found["exit_code"], found["node"]) == ("broken", 1, "n1")
        sentence = f"the machine {platform.node()} has another version of vldd_dist, or of a plug-in, than "
        assert found["cause"].startswith(sentence)
        assert store.keys("units") == []
    assert worker.run_checked(unit.order(), store, Reports(), "n1", None, 0)["status"] == "done"  # type: ignore[arg-type]


class Revised(Coreset):
    name: str = "revised"
    revision: int = 1

    def select(self, candidates: Candidates, count: int, generator: np.random.Generator) -> Tensor:
        return torch.arange(count)


def test_a_machine_with_another_revision_of_a_plugin_computes_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the older code computes would be committed under the id of the newer revision."""
    monkeypatch.setattr(worker, "start_logging", lambda: None)
    monkeypatch.setitem(CORESETS.entries, "revised", f"{__name__}:Revised")
    mark_store(store)
    (unit, *_) = units_of(experiment("coresets.methods=[revised]"), "coreset")
    check_version(unit.order())
    newer = replace(unit, spec=unit.spec | {"method": {"name": "revised", "revision": 2}})
    missing = replace(unit, spec={"of": [{"name": "gone", "revision": 1}]})
    for other, said in ((newer, "'revised' (1) than the unit (2)"), (missing, "'gone' (none) than the unit (1)")):
        found = worker.run_checked(other.order(), store, Reports(), "n1", None, 0)  # type: ignore[arg-type]
        assert (found["status"], found["exit_code"]) == ("broken", 1)
        assert f"has another revision of the plug-in {said}: use one image" in found["cause"]
    assert store.keys("units") == []


def fails_when_imported(monkeypatch: pytest.MonkeyPatch, folder: Path, registry: Registry, name: str) -> None:
    (folder / "unfit.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setitem(registry.entries, name, "unfit:Unfit")


@pytest.mark.parametrize("registry", [CORESETS, STAGES])
def test_a_plugin_whose_library_does_not_work_on_this_machine_is_an_outcome(
    registry: Registry, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray's error for an exception has no node, and would leave the process with partly imported modules to the next unit."""
    monkeypatch.setattr(worker, "start_logging", lambda: None)
    fails_when_imported(monkeypatch, tmp_path, registry, "unfit")
    kind, spec = ("unfit", {}) if registry is STAGES else ("coreset", {"method": {"name": "unfit", "revision": 1}})
    unit = WorkUnit(kind, spec, version=stage_of("coreset").version)
    found = worker.run_checked(unit.order(), store, Reports(), "n1", None, 0)  # type: ignore[arg-type]
    assert (found["status"], found["exit_code"], found["node"]) == ("broken", 1, "n1")
    assert "operator torchvision::nms does not exist" in found["cause"]
    assert (f"the machine {platform.node()} cannot load the plug-in 'unfit': " in found["cause"]) == (registry is CORESETS)


def test_a_plugin_of_another_kind_with_the_name_of_the_units_may_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CORESETS.entries, "revised", f"{__name__}:Revised")
    fails_when_imported(monkeypatch, tmp_path, METRICS, "revised")
    (unit, *_) = units_of(experiment("coresets.methods=[revised]"), "coreset")
    check_version(unit.order())
    with pytest.raises(OtherVersion, match=r"cannot load the plug-in 'revised': operator torchvision::nms"):
        check_version(replace(unit, spec=unit.spec | {"method": {"name": "revised", "revision": 2}}).order())


def test_a_unit_whose_input_is_not_in_the_store_of_this_machine_may_run_on_another(store: Store) -> None:
    mark_store(store)
    inputs = {"dataset": WorkUnit("dataset", {}), "group_000000": WorkUnit("embedding_group", {})}
    unit = caption_embeddings.STAGE.new(experiment(), {}, inputs)
    found = worker.run_order(unit.order(), store, Reports(), "n1")  # type: ignore[arg-type]
    assert (found.status, found.exit_code) == ("broken", 4)
    assert f"manifest.json: no such object on the machine {platform.node()}, although this input of the unit" in found.cause
    assert store.keys("units") == []


def test_the_first_progress_is_always_reported(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says from where a resumed unit goes on."""

    def execute(order: object, store: object, report: SendReport, *arguments: object) -> None:
        for done in range(7, 10):
            report(Progress(done, 100))

    monkeypatch.setattr(worker, "execute", execute)
    sent: list[Any] = []
    queue = SimpleNamespace(actor=SimpleNamespace(put_nowait=SimpleNamespace(remote=sent.append)))
    mark_store(store)
    worker.run_order(make("unit").order(), store, queue, "n1")  # type: ignore[arg-type]
    assert [message["fields"].get("done") for _, message in sent] == [7]
