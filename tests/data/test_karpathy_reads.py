"""How often a Karpathy-style file, which may have 100 MiB and lie in a bucket, is read."""

from pathlib import Path
from typing import Any

import pytest

from tests.data.prepared.test_dataset import karpathy
from vldd_dist.data.sources.base import SPLITS
from vldd_dist.data.sources.karpathy import Karpathy
from vldd_dist.pipeline.advice import advice_on
from vldd_dist.pipeline.graphs.description import graph_of
from vldd_dist.planner.plan import plan
from vldd_dist.testing.experiments.tiny_experiment import experiment


def test_a_run_reads_it_once_and_a_plan_once_more_for_the_first_samples_of_each_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def more(tree: dict[str, Any]) -> None:
        tree["images"] *= 10

    karpathy(tmp_path, more)
    reads, read = 0, Karpathy._entries

    def counted(self: Karpathy) -> list[Any]:
        nonlocal reads
        reads += 1
        return read(self)

    monkeypatch.setattr(Karpathy, "_entries", counted)
    source = f"{{name: karpathy, annotations: {tmp_path}/data.json, images: {tmp_path}/images}}"
    described = experiment(f"data.source={source}", "experts.readers=1", *(f"data.{split}_images=null" for split in SPLITS))
    graph_of(described).units()
    advice_on(described)
    assert reads == 1
    plan(described, None)
    assert reads == 1 + len(SPLITS)
