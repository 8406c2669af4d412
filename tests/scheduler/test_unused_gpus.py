"""A run says if the machines have GPUs that none of its units uses."""

from dataclasses import replace

import pytest

from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.scheduler.executor import Capacity
from vldd_dist.store.store import Store
from vldd_dist.testing.scripted_executor import Notices, make, run

SENTENCE = (
    "the machines have 8 CPUs and 1 GPUs, and no unit asks for a GPU: --gpus 1 gives one to each worker that runs a network"
)


@pytest.mark.parametrize(
    ("units", "notices"),
    [
        ([make(f"expert {number}") for number in range(3)], [SENTENCE]),
        ([make("expert 0"), make("expert 1", gpus=0.5)], []),
        ([replace(make("expert 0"), device="cpu")], []),
    ],
)
def test_unused_gpus_are_mentioned_once(units: list[WorkUnit], notices: list[str], store: Store) -> None:
    view = Notices()
    run(units, store, capacity=Capacity(8, 1, True), view=view)
    assert view.notices == notices


def test_gpus_that_join_later_are_mentioned(store: Store) -> None:
    view = Notices()
    run([make(f"expert {number}") for number in range(5)], store, capacity=lambda now: Capacity(1, 8 * (now > 2)), view=view)
    assert [notice.partition(" and no")[0] for notice in view.notices] == ["the machines have 1 CPUs and 8 GPUs,"]


def test_what_is_committed_needs_no_gpu(store: Store) -> None:
    done, missing = make("expert 0", gpus=1), make("expert 1")
    run([done], store, capacity=Capacity(8, 1))
    view = Notices()
    run([done, missing], store, capacity=Capacity(8, 1), view=view)
    assert view.notices == [SENTENCE]
