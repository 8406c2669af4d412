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

from vldd_dist.config.experiment import Experiment
from vldd_dist.config.sections.distillation import DistillationSettings
from vldd_dist.cost_model.flop_trace import COUNTED, FlopCount, FlopTrace
from vldd_dist.cost_model.io_model import data_size
from vldd_dist.cost_model.memory_model import peak
from vldd_dist.cost_model.memory_trace import MemoryTrace
from vldd_dist.cost_model.work_model import distillation_flops, expert_flops, measuring, student_flops
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
from vldd_dist.retrieval.encode import measure, retrieval_split
from vldd_dist.testing.experiments.tiny_experiment import experiment, units_of

TEXT_DIM = 24
MODELS = {
    "nfnet": [],
    "lora": ["model.image.model=test_vit", "model.image.model_args={img_size: 32}", "model.image.train=lora"],
}


def traced(*overrides: str) -> tuple[Experiment, MemoryTrace]:
    described = experiment(*overrides)
    return described, MemoryTrace(described.model, TEXT_DIM, described.data.image_size)


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
    recall = 12 * flops.encoding + 60 * flops.text_encoding + 4 * 12 * 60 * trace.joint_dim
    assert measuring(trace, data, "val") == (0, pytest.approx(recall))
    assert expert_flops(described, trace, data) == pytest.approx(3 * 48 * flops.training + 4 * recall)
    all_captions = described.model_copy(update={"experts": described.experts.model_copy(update={"captions": "all"})})
    assert expert_flops(all_captions, trace, data) == pytest.approx(5 * 3 * 48 * flops.training + 4 * recall)
    student = student_flops(trace, described.evaluation, 4, recall)
    assert student == pytest.approx(2 * 4 * flops.training + recall)
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
        step = outer_step_flops(trace, described.distill, own)
        student = student_flops(trace, described.evaluation, seen, measuring(trace, data, "val").each)
        found = stage.flops(described, lambda *_: trace, data, unit)
        # At the start, after step 3 and at the end.
        assert found == pytest.approx(steps * step + 3 * student)
    memory = stage.memory(described, lambda *_: trace)
    assert memory["earlier phases"] == 2 * trace.pair_bytes(2)
    whole = described.model_copy(update={"distill": described.distill.model_copy(update={"phases": []})})
    assert peak(memory) < peak(stage.memory(whole, lambda *_: trace))


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
        # A column for each of 1,000 pairs, and the pair's number, which is an int64.
        ("{name: wbce, similarity: full}", 1002),
    ],
)
def test_a_plan_counts_what_a_loss_learns(loss: str, numbers: int) -> None:
    (_, plain), (_, learning) = (traced(f"model.loss={given}") for given in ("infonce", loss))
    assert plain.pair_bytes(1000) == plain.real_bytes == 4 * (3 * 32**2 + TEXT_DIM)
    assert learning.pair_bytes(1000) - plain.pair_bytes(1000) == 4 * numbers
    assert learning.input_bytes(1000) - plain.input_bytes(1000) == 4 * numbers
    assert (learning.real_bytes, learning.real_input_bytes) == (plain.real_bytes, plain.real_input_bytes)
    apart = [trace.second_order(4, dropout=False, with_theta=True).peak for trace in (plain, learning)]
    assert 0 < apart[1] - apart[0] < 10_000


def test_a_full_similarity_is_in_all_that_a_distillation_holds_and_writes() -> None:
    """Of 1,000 pairs: values, start, best and the moments; in checkpoints all but the start."""
    (stage,) = [stage for stage in estimated_stages() if stage.kind == "distillation"]
    assert stage.memory is not None
    assert stage.traffic is not None
    of_pairs, written, many = [], [], ["data.train_images=1000", "distill.pairs=[1000]", "distill.optimiser=adam"]
    for loss in ("infonce", "{name: wbce, similarity: full}"):
        described, trace = traced(f"model.loss={loss}", *many)
        of_pairs.append(stage.memory(described, lambda *_, trace=trace: trace)["pairs"])
        written.append(stage.traffic(described, lambda *_, trace=trace: trace, None, None).writes)
    copies = 3 + len(described.distill.moments())
    # The pairs' numbers, eight bytes each, are within the tolerance.
    assert of_pairs[1] - of_pairs[0] == pytest.approx(copies * 1000 * 4 * 1000, rel=0.01)
    checkpoints = described.distill.outer_steps // described.distill.checkpoint_every
    assert written[1] - written[0] == pytest.approx((checkpoints * (copies - 1) + 2) * 1000 * 4 * 1000, rel=0.01)


HEADS = ["model.image.train=head", "model.image.head.kind=linear", "model.joint_dim=16"]


@pytest.mark.parametrize("overrides", [[], HEADS, [*HEADS, "model.image.weights=none.safetensors"]])
def test_measuring_has_the_operations_of_a_measurement(overrides: list[str]) -> None:
    """Of images or, with a frozen backbone, of features, which a unit computes once unless they are stored."""
    described, trace = traced(*overrides)
    data = data_size(described, None)
    assert data is not None
    settings = described.model.model_copy(update={"image": described.model.image.model_copy(update={"weights": "random"})})
    model, images = build(settings, TEXT_DIM, None, 0), torch.randint(0, 256, (12, 3, 32, 32), dtype=torch.uint8)
    captions, owners = torch.randn(60, TEXT_DIM), torch.arange(12).repeat_interleave(5)
    with FlopCount() as once:
        split = retrieval_split(model, images, captions, owners, 12)
    with FlopCount() as each:
        measure(model, split, 12)
    found = measuring(trace, data, "val")
    assert found.each == pytest.approx(each.total, rel=0.01)
    # The first pass of a frozen backbone also decides on the layout of images.
    assert found.once == pytest.approx(0 if described.model.has_features else once.total, rel=0.1)


def test_an_evaluation_counts_the_recall_of_every_rate_and_of_the_test() -> None:
    """On stored features, where the measurements are most of the work."""
    rates = "evaluation.learning_rates=[0.1, 0.01]"
    described, trace = traced(*HEADS, "model.image.weights=timm", rates)
    (stage,) = [stage for stage in estimated_stages() if stage.kind == "evaluation"]
    data = data_size(described, None)
    assert data is not None
    val, test = measuring(trace, data, "val"), measuring(trace, data, "test")
    assert val.once == test.once == 0
    found = {}
    for unit in units_of(described, "evaluation"):
        found["pairs" if "pairs" in unit.inputs else "expert"] = stage.flops(described, lambda *_: trace, data, unit)
    assert found["expert"] == test.each
    trained = student_flops(trace, described.evaluation, max(described.distill.pairs), 0)
    assert found["pairs"] == pytest.approx(trained + 2 * val.each + test.each)


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
