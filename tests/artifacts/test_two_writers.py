"""P3 on an S3 server: two processes run the same unit; one commits, and the other notices it and stops."""

from datetime import timedelta
from queue import Empty
from typing import Any

import pytest

from vldd_dist.artifacts.facts import Facts
from vldd_dist.artifacts.garbage import find_garbage, remove_garbage
from vldd_dist.artifacts.manifests import UnitManifest
from vldd_dist.artifacts.unit_writer import UnitWriter
from vldd_dist.events import UnitReport
from vldd_dist.pipeline.execute import execute
from vldd_dist.pipeline.work_unit import UnitOrder
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny import HANG_SECONDS
from vldd_dist.testing.experiments.tiny_units import copy_all_but, digests, first_of
from vldd_dist.testing.processes.forks import loaded_process, loaded_processes
from vldd_dist.testing.servers.s3_server import S3Server

TWO = 2


def _make(url: str, order: UnitOrder, barrier: Any, committed: Any, wait_for_other: Any, at_once: bool = False) -> None:
    """One of the writers. Both start before either continues; the slower one waits at its first step for the faster one's
    commit. `at_once`: both wait for each other before they commit."""
    commit = UnitWriter.commit

    def telling(self: UnitWriter, facts: Facts, **resources: float) -> UnitManifest:
        if at_once:
            barrier.wait(HANG_SECONDS)
        manifest = commit(self, facts, **resources)
        committed.put([info.key for info in manifest.objects.values()])
        return manifest

    def report(event: UnitReport) -> None:
        nonlocal begun
        if not begun:
            begun = True
            barrier.wait(HANG_SECONDS)
            if wait_for_other is not None:
                wait_for_other.wait(HANG_SECONDS)

    begun = False
    UnitWriter.commit = telling  # type: ignore[method-assign]
    execute(order, Store(url), report)


@pytest.mark.parametrize("kind", ["expert", "distillation"])
def test_one_writer_commits_and_the_other_notices_and_stops(kind: str, finished: Store, s3: S3Server) -> None:
    unit, bucket = first_of(kind), f"writers-{kind}"
    store = Store(f"s3://{bucket}/x")
    store.fs.mkdir(bucket)
    copy_all_but(finished, store, unit)
    context = loaded_processes()
    barrier, committed, first_is_done = context.Barrier(TWO), context.Queue(), context.Event()
    first, second = (
        loaded_process(_make, store.url, unit.order(), barrier, committed, waits) for waits in (None, first_is_done)
    )
    first.start()
    second.start()
    first.join(HANG_SECONDS)
    assert first.exitcode == 0
    expected = digests(finished, unit)
    assert digests(store, unit) == expected
    first_is_done.set()
    second.join(HANG_SECONDS)
    assert second.exitcode == 0
    assert all(store.exists(key) for key in committed.get(timeout=HANG_SECONDS))
    with pytest.raises(Empty):
        committed.get(timeout=1)
    assert digests(store, unit) == expected, "the second stopped at its next checkpoint and removed nothing of the first's"
    assert not store.keys(f"units/{kind}/{unit.id}/checkpoints")
    left = find_garbage(store, timedelta(0))
    remove_garbage(store, left, timedelta(0))
    assert digests(store, unit) == expected, "the garbage is exactly the remains of the second attempt"


def test_two_writers_that_finish_together_leave_one_complete_unit(finished: Store, s3: S3Server) -> None:
    unit = first_of("expert")
    store = Store("s3://writers-at-once/x")
    store.fs.mkdir("writers-at-once")
    copy_all_but(finished, store, unit)
    context = loaded_processes()
    barrier, committed = context.Barrier(TWO), context.Queue()
    writers = [loaded_process(_make, store.url, unit.order(), barrier, committed, None, True) for _ in range(TWO)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(HANG_SECONDS)
        assert writer.exitcode == 0
    assert digests(store, unit) == digests(finished, unit)
    returned = [committed.get(timeout=HANG_SECONDS) for _ in writers]
    assert returned[0] == returned[1], "the second to commit gets the manifest of the first"
