"""Estimated bytes that a distillation reads."""

import pytest
import torch

from vldd_dist.artifacts.tensor_files import tensors
from vldd_dist.config.experiment import Experiment
from vldd_dist.cost_model import distillation_traffic
from vldd_dist.cost_model.io_model import data_size
from vldd_dist.cost_model.memory_trace import MemoryTrace
from vldd_dist.distillation.objectives.covariance_matching import CovarianceMatching
from vldd_dist.planner.estimator import estimated_stages
from vldd_dist.testing.experiments.tiny_experiment import experiment

TEXT_DIM = 24
LORA = ["model.image.model=test_vit", "model.image.model_args={img_size: 32}", "model.image.train=lora"]
NO_EXPERTS = CovarianceMatching()


def traced(*overrides: str) -> tuple[Experiment, MemoryTrace]:
    described = experiment(*overrides)
    return described, MemoryTrace(described.model, TEXT_DIM, described.data.image_size)


def test_a_run_reads_the_snapshots_that_it_can_reach() -> None:
    """Three experts: each snapshot is read once, and not more snapshots than the outer steps need."""
    (stage,) = [stage for stage in estimated_stages() if stage.kind == "distillation"]

    def read(*overrides: str) -> float:
        described, trace = traced("experts.count=3", "experts.epochs=9", *LORA, *overrides)
        before = described.model_copy(update={"distill": described.distill.model_copy(update={"objective": NO_EXPERTS})})
        whole, rest = (stage.traffic(one, lambda *_: trace, None, None).reads for one in (described, before))
        return (whole - rest) / sum(trace.trainable_bytes.values())

    at = "distill.objective."
    many = ["distill.outer_steps=1000"]
    assert read(*many) == 3 * 3, "epochs 0, 1, 2"
    assert read("distill.outer_steps=4") == 2 * 4
    assert read(*many, f"{at}shortcut={{last_epoch: 7}}") == 3 * 8
    assert read("distill.outer_steps=1", f"{at}shortcut={{last_epoch: 7}}") == 8
    assert read(*many, f"{at}asynchronous={{image: [0, 4], text: [6]}}") == 3 * 6, "0, 1, 4, 5, 6, 7"
    assert read("distill.outer_steps=1", f"{at}asynchronous={{auto: true}}", f"{at}min_experts=2") == 2 * 3 + 2
    assert read(*many, f"{at}min_start_epoch=1") == 3 * 2


def test_a_plan_counts_what_the_ranks_read_and_what_exceeds_their_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three experts with three snapshots each, of which 2,000 are asked for."""
    (stage,) = [stage for stage in estimated_stages() if stage.kind == "distillation"]

    def read(*overrides: str, gib: float = 16) -> float:
        monkeypatch.setenv("VLDD_CACHE_GIB", str(gib))
        given = ["experts.count=3", *LORA, "distill.outer_steps=1000"]
        described, trace = traced(*given, *overrides)
        before = described.model_copy(update={"distill": described.distill.model_copy(update={"objective": NO_EXPERTS})})
        whole, rest = (stage.traffic(one, lambda *_: trace, None, None).reads for one in (described, before))
        return (whole - rest) / sum(trace.trainable_bytes.values())

    _, trace = traced(*LORA)
    snapshots_in_gib = 9 * sum(trace.trainable_bytes.values()) / 2**30
    assert read() == 9
    assert read(gib=0) == 2000
    assert read(gib=snapshots_in_gib / 3) == pytest.approx(9 + 1991 * 2 / 3, rel=0.01)
    four = "distill.workers=4"
    assert read(four) == 4 * 9, "small snapshots: each rank reads all blocks"
    monkeypatch.setattr(distillation_traffic, "LARGE_BYTES", 0)
    assert read(four) == 4 * 9, "a part is less than a block"
    # Header and edge of both towers on four ranks are 16 blocks.
    monkeypatch.setattr(distillation_traffic, "BLOCK_BYTES", sum(trace.trainable_bytes.values()) / 160)
    assert read(four) == pytest.approx(9 * 1.1)
    assert read() == 9
    monkeypatch.setattr(distillation_traffic, "BLOCK_BYTES", 0)
    assert read(four) == 9
    assert read("distill.workers=16", "distill.pairs=[16]", "distill.batch_size=16") == 2 * 9, (
        "a sixteenth of the elements lies in an eighth of the bytes"
    )
    assert read(four, gib=snapshots_in_gib / 12) == pytest.approx(9 + 1991 * 2 / 3, rel=0.01), "of a quarter a third"
    matching = "distill.objective={name: distribution_matching, real_batch_size: 8, last_epoch: 3}"
    assert read(four, matching) == 4 * 3 * 4, "it merges whole snapshots on every rank"


def test_experts_with_one_start_read_its_image_tower_once_and_few_steps_still_read_theirs() -> None:
    (stage,) = [stage for stage in estimated_stages() if stage.kind == "distillation"]
    given = ["experts.count=20", "experts.epochs=9", "model.image.weights=none.safetensors"]

    def read(steps: int) -> tuple[float, dict[str, int]]:
        described, trace = traced(*given, f"distill.outer_steps={steps}")
        before = described.model_copy(update={"distill": described.distill.model_copy(update={"objective": NO_EXPERTS})})
        whole, rest = (stage.traffic(one, lambda *_: trace, None, None).reads for one in (described, before))
        return whole - rest, trace.trainable_bytes

    (many, size), (few, _) = read(1000), read(2)
    assert many == 20 * 3 * sum(size.values()) - 19 * size["image"], "epochs 0, 1, 2"
    assert few == 2 * 2 * sum(size.values())


def test_a_start_from_noise_reads_all_captions_and_one_from_clusters_their_features() -> None:
    (stage,) = [stage for stage in estimated_stages() if stage.kind == "distillation"]
    assert stage.traffic is not None
    found = {}
    for name in ("real", "noise", "k_means", "{images: noise, texts: k_means}", "{images: noise, texts: noise}"):
        described, trace = traced(f"distill.initialise={name}")
        data = data_size(described, None)
        assert data is not None
        found[name] = stage.traffic(described, lambda *_, trace=trace: trace, data, None)
    train, dim = data.images["train"], trace.joint_dim
    read = {name: traffic.data for name, traffic in found.items() if traffic.data is not None}
    # Of the images and captions that a start from real pairs reads, noise reads the captions, five an image.
    assert read["real"] - read["noise"] == data.shards["train"]
    assert read["noise"] == read["{images: noise, texts: noise}"]
    assert read["noise"] == data.shards["val"] + 5 * 4 * TEXT_DIM * (data.images["val"] + train)
    clusters = {"image": torch.zeros(train, dim), "text": torch.zeros(train, dim), "caption": torch.zeros(train).long()}
    for name in ("k_means", "{images: noise, texts: k_means}"):
        assert read[name] == read["real"]
        assert found[name].reads - found["real"].reads == pytest.approx(len(tensors.encode(clusters)), rel=0.05)
    assert found["noise"].reads == found["real"].reads
