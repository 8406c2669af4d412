"""The cost model and the controller's benchmark: their output equals the figures in docs/scaling.md."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import scale
from benchmarks._measure import FreshProcess, peak_memory
from benchmarks.scaling_model import SOURCES, STUDENTS, data_size, describe, model, tables, trace_of
from vldd_dist.artifacts.runs.run_status import read_statuses
from vldd_dist.coresets.candidates import Candidates
from vldd_dist.coresets.k_means import KMeans
from vldd_dist.cost_model.work_model import distillation_flops, expert_flops
from vldd_dist.pipeline.graphs.experiment import Graph
from vldd_dist.planner.work import GPU_SUSTAINED
from vldd_dist.store.store import Store

DOCUMENT = Path(__file__).parents[1] / "docs" / "scaling.md"
FLICKR30K, COCO, LARGE = SOURCES
NFNET = STUDENTS["nfnet_l0"]


def test_the_document_holds_the_tables_as_they_are_printed() -> None:
    assert f"\n\n{tables()}\n" in DOCUMENT.read_text()


def test_flickr30k_by_hand() -> None:
    """The costs of the preset: 20 experts of 10 epochs, 2,000 outer steps of 8 inner ones on 100 pairs, validated 11 times."""
    costs = model(FLICKR30K, NFNET)
    # The whole image tower, and the text head: two layers with biases and a normalisation.
    snapshot = {"image": 131_077_952, "text": 4 * ((768 + 1) * 2_304 + (2_304 + 1) * 2_304 + 2 * 2_304)}
    assert trace_of(describe(FLICKR30K, NFNET)).trainable_bytes == snapshot

    # Each epoch 29,000 images, five captions each; before the first and after each 1,014 images without gradients; 600 and
    # 1,800 a second.
    assert costs["expert"].hours == pytest.approx(20 * (10 * 5 * 29_000 / 600 + 11 * 1_014 / 1_800) / 3600)
    # Training and validation images, the embeddings of five captions each, and the starting weights.
    read = (29_000 + 1_014) * (2_560 + 30_106 + 5 * 4 * 768) + snapshot["image"]
    assert costs["expert"].read == 20 * read
    # One for each of three inputs, five for the unit, ten for each of eleven checkpoints; 8 MiB a read, 16 MiB a write.
    pieces = math.ceil(read / 2**23) + math.ceil(costs["expert"].written / 20 / 2**24)
    assert costs["expert"].requests == 20 * (3 + 5 + 10 * 11 + pieces)
    # Eleven checkpoints with the parameters, also those of the kept snapshots, and ten bytes for each caption.
    assert costs["expert"].written == 20 * 11 * (sum(snapshot.values()) + 10 * 5 * 29_000)

    # Four images a pair and inner step; validation: for two learning rates 51 epochs on the pairs, and 1,014 images.
    steps = 4 * 2_000 * 8 * 100 * 4 / 600
    looks = sum(11 * 2 * (51 * pairs / 600 + 1_014 / 1_800) for pairs in (100, 200, 500, 1_000))
    assert costs["distillation"].hours == pytest.approx((steps + looks) / 3600)
    # 40 checkpoints with the pairs, the best pairs and a momentum; at the end, the best pairs and the starting ones.
    assert costs["distillation"].written == (40 * 3 + 2) * (100 + 200 + 500 + 1_000) * 4 * (3 * 224 * 224 + 768)


def test_the_document_says_what_is_included() -> None:
    text = DOCUMENT.read_text()
    (absent,) = re.findall(r"^- Not included: .*?(?=\n\n|\n- )", text, re.MULTILINE | re.DOTALL)
    assert "forgetting" not in absent
    assert "has 10 bytes of forgetting counts for each caption that the expert is trained on" in text


def test_the_document_compares_its_hours_with_those_of_a_plan() -> None:
    experiment, costs = describe(COCO, NFNET), model(COCO, NFNET)
    trace, data = trace_of(experiment), data_size(COCO, experiment)
    flops = experiment.experts.count * expert_flops(experiment, trace, data)
    for pairs in experiment.distill.pairs:
        flops += len(experiment.distill.seeds) * (distillation_flops(experiment, trace, data, pairs, 0) or 0)
    (factor,) = re.findall(r"the hours in these tables are (\S+) times those of the plan", DOCUMENT.read_text())
    ours = costs["expert"].hours + costs["distillation"].hours
    assert ours / (flops / GPU_SUSTAINED / 3600) == pytest.approx(float(factor), rel=0.05)


# What a selection takes at most, as a multiple of the features that it is given.
SELECTION = 7


def test_the_memory_of_a_coreset_by_hand() -> None:
    """Image and text features of 2,304 numbers each, and what the selection holds in addition."""
    size = (1 + SELECTION) * 2 * 4 * 2_304
    assert 48 * 2**30 / size == pytest.approx(350_000, rel=0.01)
    assert COCO.images["train"] * size == pytest.approx(17e9, rel=0.03)
    text = DOCUMENT.read_text()
    assert "18 kB each with nfnet_l0, and while they select up to seven times as much in addition" in text
    assert "| 350,000 images in 48 GiB if one selection runs there; two run in" in text
    assert "so 175,000; COCO: 17 GB |" in text


def test_k_means_takes_seven_times_its_features() -> None:
    with FreshProcess() as process:
        assert SELECTION - 1 < process.run(_memory_of_k_means) < SELECTION + 0.5


def _memory_of_k_means() -> float:
    """The memory of a selection, as a multiple of the features."""

    def select(images: int, dim: int) -> int:
        features = torch.rand(2, images, dim, generator=torch.Generator().manual_seed(0))
        candidates = Candidates(images, *features)
        return peak_memory(lambda: KMeans(name="k_means").select(candidates, 4, np.random.default_rng(0)))[1]

    # Loads the libraries.
    select(50, 8)
    return select(8_000, 512) / (2 * 4 * 8_000 * 512)


def test_the_units_are_those_of_the_plan() -> None:
    """The units of the same preset with a source that needs no files."""
    overrides = ["data.source=scenes", "model.image.weights=random"]
    overrides += ["data.train_images=8000"]
    experiment = scale.load_experiment(scale.PRESETS / NFNET, overrides)
    kinds = [unit.kind for unit in Graph(experiment).units()]
    assert {kind: cost.units for kind, cost in model(FLICKR30K, NFNET).items()} == {
        kind: kinds.count(kind) for kind in ("expert", "distillation", "evaluation")
    }


def test_shards_beyond_the_cache_are_read_each_epoch() -> None:
    shards = {source.name: source.images["train"] * 32_666 for source in SOURCES}
    assert shards["COCO"] < 16 * 2**30 < shards["100M pairs"]
    read = {source.name: model(source, NFNET)["expert"].read / 20 for source in SOURCES}
    assert read["COCO"] < 2 * shards["COCO"]
    assert 3 * shards["100M pairs"] < read["100M pairs"] < 3.2 * shards["100M pairs"]


def test_the_benchmark_counts_every_request_of_the_driver(tmp_path: Path) -> None:
    """For a run and for one that finds everything done: one listing each. The status is written at the start and at the end,
    and each write counts twice, because it is read back and compared."""
    first = scale.simulate(300, False, str(tmp_path))
    again = scale.simulate(300, False, str(tmp_path))
    assert first.units == again.units >= 300
    assert first.writes >= 2 * 2
    # The first listing is empty, and later ones have at most 900 marks.
    assert (first.requests - first.writes, again.requests - again.writes) == (1, 1)
    assert (again.writes, again.polls, again.asked) == (4, 0, 0)
    (status,) = read_statuses(Store(str(tmp_path)))
    assert status.state == "done"
    assert sum(stage.total for stage in status.stages.values()) == first.units


def test_a_listing_of_many_keys_is_several_requests(tmp_path: Path) -> None:
    store = scale.CountingStore(str(tmp_path))
    for number, expected in ((1_000, 1), (1_001, 2)):
        for index in range(number):
            (tmp_path / "units").mkdir(exist_ok=True)
            (tmp_path / "units" / str(index)).touch()
        store.requests = 0
        store.keys("units")
        assert store.requests == expected
