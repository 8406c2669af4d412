"""A machine that is short of memory, with Ray's own memory monitor, which kills workers before the kernel does."""

from pathlib import Path

import pytest

from tests.ray_backend.one_node import assert_said, one_node, run
from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.store.store import Store

pytestmark = pytest.mark.ray


class NoQueue:
    """Replaces the progress queue. Ray's monitor would kill its process too, and no unit here reports progress."""

    def qsize(self) -> int:
        return 0

    def get_nowait_batch(self, size: int) -> list[object]:
        return []


def test_a_unit_on_a_machine_without_memory_fails_with_a_one_sentence_error(store: Store, tmp_path: Path) -> None:
    # More than a thousandth of the memory is always in use.
    short = {"memory_usage_threshold": 0.001, "memory_monitor_refresh_ms": 100}
    with one_node(tmp_path, _system_config=short) as executor:
        executor.queue = NoQueue()  # type: ignore[assignment]
        result, notices = run(WorkUnit("expert", {}, label="expert 0", own_process=True), store, executor)
    assert_said(result, notices, "its process was killed by Ray because its machine was short of memory: ")
