"""How often a Karpathy-style file, which may have 100 MiB and lie in a bucket, is read."""

from pathlib import Path
from typing import Any

import pytest

from tests.data.small_sources import karpathy
from vldd_dist.config.described import Described
from vldd_dist.config.experiment import Experiment
from vldd_dist.config.loading.descriptions import read_description
from vldd_dist.data.sources.base import SPLITS
from vldd_dist.data.sources.karpathy import Karpathy
from vldd_dist.pipeline.advice import advice_on
from vldd_dist.pipeline.graphs.description import graph_of
from vldd_dist.planner.plan import plan
from vldd_dist.testing.experiments.tiny_experiment import experiment


@pytest.fixture
def described(tmp_path: Path) -> Experiment:
    def more(tree: dict[str, Any]) -> None:
        tree["images"] *= 10

    karpathy(tmp_path, more)
    source = f"{{name: karpathy, annotations: {tmp_path}/data.json, images: {tmp_path}/images}}"
    return experiment(f"data.source={source}", "experts.readers=1", *(f"data.{split}_images=null" for split in SPLITS))


@pytest.fixture
def reads(described: Experiment, monkeypatch: pytest.MonkeyPatch) -> list[Karpathy]:
    """The source of each read."""
    reads, read = [], Karpathy._entries

    def recorded(self: Karpathy) -> list[Any]:
        reads.append(self)
        return read(self)

    monkeypatch.setattr(Karpathy, "_entries", recorded)
    return reads


def check_reads(described: Described, reads: list[Karpathy]) -> None:
    graph_of(described).units()
    advice_on(described)
    assert len(reads) == 1
    plan(described, None)
    assert len(reads) == 1 + len(SPLITS)


def test_a_run_reads_it_once_and_a_plan_once_more_for_the_first_samples_of_each_split(
    described: Experiment, reads: list[Karpathy]
) -> None:
    check_reads(described, reads)


def test_the_variants_of_a_study_read_it_together_as_often_as_one_experiment(
    described: Experiment, reads: list[Karpathy]
) -> None:
    base = described.model_dump(mode="json")
    variants = {"rate": {"distill.lr_images": 3}, "fewer": {"data.train_images": 15}, "seed": {"seed": 1}, "base": {}}
    study = read_description({"name": "study", "base": base, "variants": variants}, "a test")
    assert len(study.experiments) == 4
    check_reads(study, reads)
