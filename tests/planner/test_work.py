"""Estimated operations compared with PyTorch's own counter, and with passes counted by hand."""

import re
from collections.abc import Mapping
from io import StringIO
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from vldd_dist.artifacts.tensor_files import tensors
from vldd_dist.config.experiment import Experiment
from vldd_dist.config.sections.distillation import DistillationSettings
from vldd_dist.cost_model import distillation_traffic
from vldd_dist.cost_model.flop_trace import COUNTED, FlopCount, FlopTrace
from vldd_dist.cost_model.io_model import data_size
from vldd_dist.cost_model.memory_model import peak
from vldd_dist.cost_model.memory_trace import MemoryTrace
from vldd_dist.cost_model.work_model import distillation_flops, expert_flops, student_flops
from vldd_dist.distillation.objectives.costs import ObjectiveCosts
from vldd_dist.distillation.objectives.covariance_matching import CovarianceMatching
from vldd_dist.distillation.unroll import Unroll, full_gradient
from vldd_dist.errors import ConfigError
from vldd_dist.models.dual_encoder import build
from vldd_dist.models.image.frozen_backbone import FrozenBackbone
from vldd_dist.models.losses.infonce import InfoNCE
from vldd_dist.pipeline.stage import stage_of
from vldd_dist.planner.estimator import Estimator, estimated_stages
from vldd_dist.planner.show_plan import _print_work
from vldd_dist.planner.work import PlannedExperiment, Work, count_work
from vldd_dist.plugins import LOSSES
from vldd_dist.testing.experiments.tiny_experiment import experiment, units_of

TEXT_DIM = 24
MODELS = {
    "nfnet": [],
    "lora": ["model.image.model=test_vit", "model.image.model_args={img_size: 32}", "model.image.train=lora"],
}


def traced(*overrides: str) -> tuple[Experiment, MemoryTrace]:
    described = experiment(*overrides)
    return described, MemoryTrace(described.model, TEXT_DIM, described.data.image_size)


NO_EXPERTS = CovarianceMatching()


def outer_step_flops(trace: MemoryTrace, settings: DistillationSettings, pairs: int) -> float | None:
    return settings.objective.costs().step_flops(FlopTrace(trace), settings, pairs)


@pytest.mark.parametrize("name", MODELS)
def test_a_training_step_has_the_operations_of_torchs_counter(name: str) -> None:
    described, trace = traced(*MODELS[name])
    model = build(described.model, TEXT_DIM, None, 0).eval()
    images, texts = torch.randn(COUNTED, 3, 32, 32), torch.randn(COUNTED, TEXT_DIM)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        described.model.loss(*model(images, texts)).backward()
    assert FlopTrace(trace).training * COUNTED == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_an_image_encoded_has_the_operations_of_torchs_counter() -> None:
    described, trace = traced()
    model = build(described.model, TEXT_DIM, None, 0).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.image_features(torch.randn(COUNTED, 3, 32, 32))
    assert FlopTrace(trace).encoding * COUNTED == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_an_exact_step_costs_as_much_as_the_graph_of_all_steps() -> None:
    """Compared with `full`, another implementation with one graph that autograd differentiates."""
    steps = 3
    described, trace = traced(f"distill.objective.inner_steps={steps}", f"distill.pairs=[{COUNTED}]")
    student, theta, batch = trace.student(COUNTED, dropout=False, fused=False)
    with FlopCount() as counted:
        full_gradient(
            Unroll(
                theta,
                torch.empty(2, device="meta"),
                [batch] * steps,
                lambda end: torch.stack([tensor.square().sum() for tensor in end]).sum(),
                student.towers,
            ),
            student,
        )
    modelled = outer_step_flops(trace, described.distill, COUNTED)
    # The first pass of the sweep is without a graph.
    there = (steps - 1) * COUNTED * FlopTrace(trace).training
    assert modelled == pytest.approx(counted.total + there, rel=0.1)


def test_the_flops_of_units_are_those_of_their_passes() -> None:
    described, trace = traced("distill.pairs=[4]", "distill.batch_size=2", "distill.outer_steps=10", "distill.validate_every=4")
    data, flops = data_size(described, None), FlopTrace(trace)
    assert data is not None
    assert expert_flops(described, trace, data) == pytest.approx(3 * 48 * flops.training + 4 * 12 * flops.encoding)
    all_captions = described.model_copy(update={"experts": described.experts.model_copy(update={"captions": "all"})})
    assert expert_flops(all_captions, trace, data) == pytest.approx(5 * 3 * 48 * flops.training + 4 * 12 * flops.encoding)
    student = student_flops(trace, described.evaluation, 4, 12)
    assert student == pytest.approx(2 * 4 * flops.training + 12 * flops.encoding)
    step = 2 * (flops.training + 2 * flops.second_order(frozenset()))
    assert outer_step_flops(trace, described.distill, 4) == pytest.approx(step)
    texts = described.model_copy(update={"distill": described.distill.model_copy(update={"lr_images": 0.0})})
    assert outer_step_flops(trace, texts.distill, 4) < step, "no backward pass to the pixels"
    # Validation is at the start and after steps 4, 8 and 10.
    assert distillation_flops(described, trace, data, 4, 0) == pytest.approx(10 * step + 4 * student)


def test_phases_cost_their_own_steps_and_validations_on_all_pairs_so_far() -> None:
    """A phase also holds the pairs of earlier phases."""
    described, trace = traced(
        "distill.pairs=[6]", "distill.phases=[{pairs: 2, outer_steps: 4}, {}]", "distill.validate_every=3"
    )
    (stage,) = [stage for stage in estimated_stages() if stage.kind == "distillation"]
    data = data_size(described, None)
    assert data is not None
    first, last = units_of(described, "distillation")
    for unit, own, steps, seen in ((first, 2, 4, 2), (last, 4, 6, 6)):
        step, student = outer_step_flops(trace, described.distill, own), student_flops(trace, described.evaluation, seen, 12)
        found = stage.flops(described, lambda *_: trace, data, unit)
        # At the start, after step 3 and at the end.
        assert found == pytest.approx(steps * step + 3 * student)
    memory = stage.memory(described, lambda *_: trace)
    assert memory["earlier phases"] == 2 * trace.pair_bytes
    whole = described.model_copy(update={"distill": described.distill.model_copy(update={"phases": []})})
    assert peak(memory) < peak(stage.memory(whole, lambda *_: trace))


def test_a_run_reads_the_snapshots_that_it_can_reach() -> None:
    """Three experts: each snapshot is read once, and not more snapshots than the outer steps need."""
    (stage,) = [stage for stage in estimated_stages() if stage.kind == "distillation"]

    def read(*overrides: str) -> float:
        described, trace = traced("experts.count=3", "experts.epochs=9", "model.image.train=lora", *MODELS["lora"], *overrides)
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
        given = ["experts.count=3", "model.image.train=lora", *MODELS["lora"], "distill.outer_steps=1000"]
        described, trace = traced(*given, *overrides)
        before = described.model_copy(update={"distill": described.distill.model_copy(update={"objective": NO_EXPERTS})})
        whole, rest = (stage.traffic(one, lambda *_: trace, None, None).reads for one in (described, before))
        return (whole - rest) / sum(trace.trainable_bytes.values())

    _, trace = traced("model.image.train=lora", *MODELS["lora"])
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


class Unknown(CovarianceMatching):
    def costs(self) -> ObjectiveCosts[Any]:  # type: ignore[override]
        return ObjectiveCosts(self)


def test_an_objective_without_a_flop_count_is_reported_as_unknown() -> None:
    described, trace = traced()
    unknown = described.model_copy(update={"distill": described.distill.model_copy(update={"objective": Unknown()})})
    data = data_size(described, None)
    assert data is not None
    assert distillation_flops(unknown, trace, data, 4, 0) is None
    (unit,) = units_of(described, "distillation")
    _, notes = count_work([PlannedExperiment(unknown, [unit], data, Estimator(TEXT_DIM))])
    assert notes == [
        "?: the work of distillations is unknown, because the objective covariance_matching does not count its operations"
    ]


def test_writes_are_those_of_each_number_of_pairs() -> None:
    def writes(*overrides: str) -> int:
        described = experiment(*overrides)
        units, data = units_of(described, "distillation"), data_size(described, None)
        (work,) = count_work([PlannedExperiment(described, units, data, Estimator(TEXT_DIM))])[0].values()
        return work.writes

    assert writes("distill.pairs=[4, 8]") == writes("distill.pairs=[4]") + writes("distill.pairs=[8]")
    # The first phase of two pairs is the same for both.
    phases = "distill.phases=[{pairs: 2, outer_steps: 4}, {}]"
    both, four, eight = (writes(phases, f"distill.pairs={pairs}") for pairs in ("[4, 8]", "[4]", "[8]"))
    assert eight < both < four + eight


def test_stages_whose_work_is_not_counted_are_named() -> None:
    described = experiment()
    units = [*units_of(described, "expert"), *units_of(described, "embedding_group")]
    _, notes = count_work([PlannedExperiment(described, units, data_size(described, None), Estimator(TEXT_DIM))])
    assert notes == ["The hours do not include: embedding groups"]


@pytest.mark.parametrize(
    ("loss", "numbers"),
    [
        ("{learn_temperature: true}", 0),
        ("{name: wbce, similarity: {rank: 20}}", 41),
        # One column, and the pair's number, which is an int64.
        ("{name: wbce, similarity: full}", 3),
    ],
)
def test_a_plan_counts_what_a_loss_learns(loss: str, numbers: int) -> None:
    (_, plain), (_, learning) = (traced(f"model.loss={given}") for given in ("infonce", loss))
    assert learning.pair_bytes - plain.pair_bytes == learning.input_bytes - plain.input_bytes == 4 * numbers
    apart = [trace.second_order(4, dropout=False, with_theta=True).peak for trace in (plain, learning)]
    assert 0 < apart[1] - apart[0] < 10_000


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


def test_features_of_a_frozen_backbone_are_inputs_of_what_is_counted() -> None:
    described, trace = traced("model.image.train=head", "model.image.head.kind=linear", "model.joint_dim=16")
    flops, model = FlopTrace(trace), build(described.model, TEXT_DIM, None, 0)
    frozen, images = FrozenBackbone(model.image_backbone), torch.randn(COUNTED, 3, 32, 32)
    frozen.features(images)
    with FlopCount() as there:
        frozen.features(images)
    with FlopCount() as there_and_back:
        encoded = frozen.chunk_with_graph(images)
        encoded.pixel_gradients(torch.ones_like(encoded.features))
    assert flops.encoding * COUNTED == pytest.approx(there.total, rel=0.01)
    assert flops.pixels * COUNTED == pytest.approx(there_and_back.total, rel=0.01)
    assert flops.training < 0.01 * flops.encoding
    assert flops.training < flops.second_order(frozenset()) < 0.02 * flops.encoding


def test_an_evaluation_reads_the_weights_of_the_largest_image_model() -> None:
    (stage,) = [stage for stage in estimated_stages() if stage.kind == "evaluation"]
    assert stage.traffic is not None

    def reads(*further: str) -> int:
        described, _ = traced("model.image.weights=none.safetensors", f"evaluation.image_models=[{', '.join(further)}]")
        return stage.traffic(described, Estimator(TEXT_DIM).trace, None, None).reads

    assert stage.traffic is not None
    larger = "{model: mobilenetv2_100, weights: none.safetensors}"
    described, _ = traced("model.image.model=mobilenetv2_100")
    weights = [
        sum(parameter.nbytes for parameter in build(one.model, TEXT_DIM, None, 0).image_backbone.parameters())
        for one in (described, traced()[0])
    ]
    assert reads(larger) - reads() == weights[0] - weights[1] > 0


@pytest.mark.parametrize("gpu_hours", [0.0, 2.0])
def test_a_plan_with_gpus_says_that_a_transformer_in_fp32_is_slower_than_its_rate(gpu_hours: float) -> None:
    written = StringIO()
    _print_work({stage_of("expert"): Work(units=1, gpu_hours=gpu_hours)}, Console(file=written))
    assert ("less than 20 on an A100" in written.getvalue()) == (gpu_hours > 0)


class Hard(InfoNCE):
    """A loss of the pairs that are hard, which are chosen by their values."""

    name: str = "hard"

    def of_logits(self, logits: Tensor, rows: Mapping[str, Tensor]) -> Tensor:
        losses = functional.cross_entropy(logits, torch.arange(len(logits), device=logits.device), reduction="none")
        return losses[losses > 1].mean()


def test_a_loss_that_cannot_be_traced_is_named_and_its_work_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOSSES.entries, "hard", f"{__name__}:Hard")
    described, estimator = experiment("model.loss=hard"), Estimator(TEXT_DIM)
    (unit,), (stage,) = units_of(described, "distillation"), [one for one in estimated_stages() if one.kind == "distillation"]
    reason = r"a pass of \S+ at 32 pixels with the loss hard and the objective trajectory_matching cannot be traced"
    with pytest.raises(ConfigError, match=reason):
        estimator.memory(described, stage)
    work, notes = count_work([PlannedExperiment(described, [unit], data_size(described, None), estimator)])
    assert (work[stage].units, work[stage].unknown) == (1, 1)
    assert re.search(rf"the work of distillations is unknown, because {reason}", notes[0])
