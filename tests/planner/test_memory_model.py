"""Memory estimates compared with the CPU's allocator, and how the plan shows them."""

import io
import json
import re
from pathlib import Path
from typing import NoReturn

import pytest
import torch
import transformers
from PIL import Image
from rich.console import Console
from torch import Tensor

from vldd_dist.config.experiment import Experiment
from vldd_dist.config.loading.load import load_experiment
from vldd_dist.config.sections.distillation import DistillationSettings
from vldd_dist.config.sections.evaluation import EvaluationProtocol
from vldd_dist.config.sections.experts import ExpertSettings
from vldd_dist.config.sections.model import HeadSettings, ImageTowerSettings, ModelSettings, TextTowerSettings
from vldd_dist.cost_model.distillation_memory import PairSize, UnrolledStep, backbone_memory, pairs_memory, unroll_memory
from vldd_dist.cost_model.io_model import data_size
from vldd_dist.cost_model.memory_model import (
    GIB,
    Sizes,
    TrainingStep,
    expert_memory,
    peak,
    sizes_of,
    student_memory,
    student_step_memory,
)
from vldd_dist.cost_model.memory_trace import MemoryTrace, SecondOrder
from vldd_dist.cost_model.text_memory import text_encoder_memory
from vldd_dist.distillation.student.student import Student
from vldd_dist.distillation.unroll import Tensors, Unroll, unrolled_gradient
from vldd_dist.errors import ConfigError
from vldd_dist.models.dual_encoder import build
from vldd_dist.models.image.frozen_backbone import FrozenBackbone, largest_chunk
from vldd_dist.models.inputs import model_inputs
from vldd_dist.models.losses.infonce import InfoNCE
from vldd_dist.models.text.encoder import FrozenTextEncoder
from vldd_dist.planner.estimator import Estimator, estimated_stages
from vldd_dist.planner.plan import plan
from vldd_dist.planner.show_plan import print_plan
from vldd_dist.planner.suggestions import suggest
from vldd_dist.plugins import GRADIENTS
from vldd_dist.store.store import Store
from vldd_dist.testing.allocated import allocated_peak
from vldd_dist.testing.experiments.prepared_data import prepare
from vldd_dist.testing.experiments.tiny import TINY

MIB = 2**20
TEXT_DIM, STEPS = 384, 3


@pytest.mark.parametrize("gradient", ["exact", "finite_difference"])
def test_an_unroll_takes_what_the_estimate_says(gradient: str) -> None:
    pairs, size = 64, 64
    image = ImageTowerSettings(model="test_vit", model_args={"img_size": size}, weights="random")
    text = TextTowerSettings(head=HeadSettings(kind="projection", dropout=0))
    settings = ModelSettings(image=image, text=text)
    trace = MemoryTrace(settings, TEXT_DIM, size)
    if gradient == "exact":
        step = UnrolledStep(pairs * trace.input_bytes(pairs), trace.second_order(pairs, dropout=False, with_theta=True))
    else:
        first = trace.first_order(pairs, training=False, of_batch=True, keep=True)
        step = UnrolledStep(pairs * trace.input_bytes(pairs), first)
    distill = DistillationSettings(objective={"gradient": gradient, "inner_steps": STEPS})
    estimate = peak(unroll_memory(sizes_of(trace), step, distill))

    student = Student(
        build(settings, TEXT_DIM, None, 0), InfoNCE(), dropout=False, fused_attention=gradient == "finite_difference"
    )
    start, target = student.view.read(), student.view.read()
    batches = [[torch.randn(pairs, 3, size, size), torch.randn(pairs, TEXT_DIM)] for _ in range(STEPS)]

    def outer(end: Tensors) -> Tensor:
        return torch.stack([(a - b).square().sum() for a, b in zip(end, target, strict=True)]).sum()

    unroll = Unroll(start, torch.tensor([0.01, 0.01]), batches, outer, student.towers)
    measured = allocated_peak(lambda: unrolled_gradient(unroll, GRADIENTS.load(gradient), student))
    assert measured > 30 * MIB
    assert measured / 1.2 < estimate < measured * 1.2


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_a_frozen_backbone_takes_what_the_estimate_says(kept: int) -> None:
    """The forward and backward pass of two chunks of images."""
    images, size = 40, 96
    image = ImageTowerSettings(model="mobilenetv2_100", weights="random", train="head", head=HeadSettings(kind="linear"))
    settings = ModelSettings(image=image)
    trace = MemoryTrace(settings, TEXT_DIM, size)
    passed = trace.backbone_pass(largest_chunk(images))
    mib = -(-kept * passed.graph // MIB)
    graphs, back = backbone_memory(passed, images, DistillationSettings(tower_graph_mib=mib))
    assert graphs == kept * passed.graph
    pixels = images * 3 * size**2 * 4

    frozen = FrozenBackbone(build(settings, TEXT_DIM, None, 0).image_backbone)
    given = torch.randn(images, 3, size, size)
    frozen.features(given)

    def there_and_back() -> None:
        encoded = frozen.features_with_graph(given, mib << 20)
        assert encoded.kept == kept
        encoded.pixel_gradients(torch.ones_like(encoded.features))

    measured = allocated_peak(there_and_back)
    assert measured > 30 * MIB
    assert measured / 1.2 < back + pixels < measured * 1.2
    # Folded weights and biases replace those of the convolutions, and the norms have no tensors.
    assert 0.9 * trace.frozen_bytes < trace.frozen_backbone_bytes < trace.frozen_bytes


@pytest.mark.parametrize(("name", "pooling"), [("minilm", "mean"), ("tiny-clip", "projected")])
def test_a_text_encoder_takes_what_the_estimate_says(name: str, pooling: str) -> None:
    """With captions of the maximum number of tokens."""
    settings = TextTowerSettings(model=name, pooling=pooling, max_tokens=30)
    estimate = text_encoder_memory(settings, 64)
    encoder = FrozenTextEncoder(settings, torch.device("cpu"))
    captions = ["a red circle " * 20] * 64
    encoder.encode(captions, 64)
    measured = allocated_peak(lambda: encoder.encode(captions, 64))
    assert measured / 1.2 < estimate["activations"] < measured * 1.2
    weights = sum(parameter.nbytes for parameter in encoder.model.parameters())
    assert weights <= estimate["text encoder"] < 1.01 * weights


def test_a_text_encoder_that_cannot_be_traced_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def untraceable(*arguments: object, **named: object) -> NoReturn:
        raise NotImplementedError("no kernel for meta tensors")

    monkeypatch.setattr(transformers.BertModel, "forward", untraceable)
    with pytest.raises(ConfigError, match=r"text\.model: a pass of minilm cannot be traced \(no kernel for meta tensors\)"):
        text_encoder_memory(TextTowerSettings(model="minilm", pooling="mean"), 64)


def test_a_feature_group_takes_what_the_estimate_says() -> None:
    image, batch = {"model": "mobilenetv2_100", "weights": "none.safetensors", "train": "head", "head": {"kind": "linear"}}, 48
    overrides = {"model": {"image": image, "joint_dim": 16}, "evaluation": {"encode_batch": batch}}
    data = {"source": "scenes", "image_size": 96}
    experiment = Experiment.model_validate({"name": "x", "data": data, "distill": {"pairs": [2]}, **overrides})
    (stage,) = [stage for stage in estimated_stages() if stage.kind == "feature_group"]
    estimate = Estimator(TEXT_DIM).memory(experiment, stage)
    given = experiment.model.model_copy(update={"image": experiment.model.image.model_copy(update={"weights": "random"})})
    model = build(given, TEXT_DIM, None, 0)
    frozen, images = FrozenBackbone(model.image_backbone), torch.randint(0, 256, (batch, 3, 96, 96), dtype=torch.uint8)
    frozen.features(model.normalise(images))
    measured = allocated_peak(lambda: frozen.features(model.normalise(images)))
    assert measured > 30 * MIB
    assert measured / 1.2 < estimate["activations"] < measured * 1.2
    backbone = sum(parameter.nbytes for parameter in model.image_backbone.parameters())
    assert estimate["image backbone"] == backbone
    assert 0.9 * backbone < estimate["folded"] < backbone
    assert "evaluation.encode_batch: 24 (" in suggest(experiment, stage, peak(estimate) - MIB, Estimator(TEXT_DIM))
    full = experiment.model_copy(update={"model": ModelSettings()})
    assert Estimator(TEXT_DIM).memory(full, stage) == {}


@pytest.mark.parametrize("encode_batch", [4, 256])
def test_pairs_pass_a_frozen_backbone_in_chunks_that_no_setting_changes(encode_batch: int) -> None:
    """The estimate of a student with stored features of the real images, which do not pass the backbone again."""
    head = HeadSettings(kind="linear")
    image = ImageTowerSettings(model="mobilenetv2_100", weights="given.safetensors", train="head", head=head)
    settings = ModelSettings(image=image, joint_dim=64)
    estimate = student_step_memory(MemoryTrace(settings, TEXT_DIM, 96), EvaluationProtocol(encode_batch=encode_batch), 100, 1)
    random = settings.model_copy(update={"image": image.model_copy(update={"weights": "random"})})
    model, images = build(random, TEXT_DIM, None, 0), torch.randn(100, 3, 96, 96)
    model_inputs(model, images)
    measured = allocated_peak(lambda: model_inputs(model, images))
    assert measured / 1.2 < estimate["activations"] < measured * 1.2


def test_offloading_leaves_one_snapshot_on_the_device() -> None:
    sizes, step = Sizes(100 * MIB, 0, MIB), UnrolledStep(MIB, SecondOrder(10 * MIB, 20 * MIB))
    kept = unroll_memory(sizes, step, DistillationSettings(objective={"inner_steps": 9}))
    offloaded = unroll_memory(sizes, step, DistillationSettings(objective={"inner_steps": 9, "offload_snapshots": "cpu"}))
    assert kept["snapshots"] == 800 * MIB
    assert offloaded["snapshots"] == 100 * MIB


def test_two_ranks_halve_what_is_sharded() -> None:
    sizes, first = Sizes(4 * GIB, 8 * GIB, GIB), 5 * GIB
    one, two = (
        DistillationSettings(objective={"gradient": "finite_difference", "inner_steps": 8}, workers=workers, sharding="zero3")
        for workers in (1, 2)
    )
    step = UnrolledStep(MIB, first)
    whole, half = unroll_memory(sizes, step, one), unroll_memory(sizes, step, two)
    assert half["snapshots"] == whole["snapshots"] // 2
    assert half["vectors"] - MIB == (whole["vectors"] - MIB) // 2
    pair = PairSize(MIB, MIB, MIB)
    assert pairs_memory(1000, pair, two)["pairs"] == pairs_memory(1000, pair, one)["pairs"] // 2
    averaged = one.model_copy(update={"ema": 0.99})
    assert pairs_memory(1000, pair, averaged)["pairs"] == pairs_memory(1000, pair, one)["pairs"] + 1000 * MIB
    # The model has 12 GiB in fp32, so that the buckets, one for gradients and two for parameters, have the largest size.
    bucket = 4 << 25
    fixed = GIB + 2 * bucket
    students = [student_memory(sizes, workers, "zero3") for workers in (1, 2)]
    assert students[1]["student"] - fixed == (students[0]["student"] - fixed) // 2
    assert students[1]["engine"] - bucket == (students[0]["engine"] - bucket) // 2
    large = Sizes(16 * GIB, 0, GIB, block=GIB, outside=GIB)
    stages = [
        peak(expert_memory(large, TrainingStep(MIB, first), ExpertSettings(workers=8, sharding=sharding, momentum=0.9)))
        for sharding in ("none", "zero2", "zero3", "fsdp")
    ]
    assert max(stages[2:]) < stages[1] < stages[0]


def test_traced_memory_reflects_checkpointing_batch_size_and_frozen_backbones() -> None:
    image = ImageTowerSettings(model="test_vit", model_args={"img_size": 64, "depth": 12}, weights="random")

    def trace(**changes: object) -> MemoryTrace:
        return MemoryTrace(ModelSettings(image=image.model_copy(update=changes), joint_dim=64), TEXT_DIM, 64)

    def pass_of(one: MemoryTrace, pairs: int) -> int:
        return one.first_order(pairs, training=False, of_batch=True, keep=True)

    head = HeadSettings(kind="linear")
    plain, recomputing = trace(head=head), trace(head=head, grad_checkpointing=True)
    assert pass_of(plain, 64) == pytest.approx(2 * pass_of(plain, 32), rel=0.1)
    assert pass_of(recomputing, 32) < 0.5 * pass_of(plain, 32)
    # Recomputed tensors are kept for the second derivative.
    graphs = [one.second_order(32, dropout=False, with_theta=True).graph for one in (plain, recomputing)]
    assert graphs[1] > 0.9 * graphs[0]
    frozen = trace(train="head", head=head)
    assert frozen.image_input_bytes < plain.image_input_bytes / 10
    assert pass_of(frozen, 32) < pass_of(plain, 32) / 10
    assert frozen.backbone_pass(32).peak > pass_of(plain, 32) / 4


def planned(experiment: Experiment, store: Store) -> str:
    written = io.StringIO()
    print_plan(plan(experiment, store), Console(file=written, width=120))
    return written.getvalue()


@pytest.fixture
def coco(tmp_path: Path) -> list[str]:
    """Overrides with annotations in COCO's format, and a folder for their images."""
    splits = ["train"] * 1000 + ["restval"] * 2 + ["val", "test"]
    images = [{"filename": f"{n}.jpg", "split": split, "sentences": [{"raw": "x"}]} for n, split in enumerate(splits)]
    # A plan reads the first images of each split only.
    for image in (*images[:20], *images[-4:]):
        Image.new("RGB", (8, 8)).save(tmp_path / str(image["filename"]))
    (tmp_path / "dataset.json").write_text(json.dumps({"images": images}))
    source = [f"data.source.annotations={tmp_path}/dataset.json", f"data.source.images={tmp_path}"]
    return [*source, "data.shard_images=100", *(f"data.{split}_images=null" for split in ("train", "val", "test"))]


def test_the_coco_preset_is_planned_without_a_network(store: Store, coco: list[str]) -> None:
    text = planned(load_experiment("jobs/presets/coco-nfnet-bert.yaml", coco), store)
    assert "39.9 M parameters, 39.9 M of them trainable; a snapshot takes 152.0 MiB" in text
    # Embeddings, experts, distillations, evaluations. For a model on the hub the size of BERT base is assumed; no tower is
    # frozen.
    assert text.count("80.0 GiB: fits") == 4
    assert re.search(r"embedding groups: .*text encoder 417\.6 MiB", text)
    assert "feature groups" not in text
    assert "do not fit" not in text
    assert "Needs of one unit, by stage" in text
    assert not Path(store.url.removeprefix("file://")).exists()


def test_a_number_of_captions_that_is_not_known_is_noted(store: Store, tmp_path: Path) -> None:
    for number in range(72):
        split = "train" if number < 48 else "val" if number < 60 else "test"
        (tmp_path / split).mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / split / f"{number}.png")
        (tmp_path / split / f"{number}.txt").write_text("the only caption")
    photos = load_experiment("scenes", [*TINY, f"data.source={{name: folder, path: {tmp_path}}}"])
    note = "The number of captions is not known until the data are prepared; 5 per image are assumed"
    assert note in plan(photos, store).notes
    assert not any("numbers of images are not known" in said for said in plan(photos, store).notes)
    prepare(store, photos.data)
    assert note not in plan(photos, store).notes
    assert note not in plan(load_experiment("scenes", TINY), store).notes, "each scene has five"


@pytest.mark.parametrize(
    ("model", "millions", "blocks", "width", "gib", "fits"),
    [("vit_large_patch16_224", 303.3, 24, 1024, 40, True), ("vit_base_patch16_224", 85.8, 12, 768, 7, False)],
)
def test_snapshots_of_adapters_are_small_and_a_small_gpu_is_refused_with_suggestions(
    model: str, millions: float, blocks: int, width: int, gib: int, fits: bool, store: Store, coco: list[str]
) -> None:
    gpu = [f"distill.resources.gpu_memory_gib={gib}", "distill.batch_size=32", "distill.pairs=[100]"]
    experiment = load_experiment("jobs/presets/flickr30k-vit-lora.yaml", [*coco, f"model.image.model={model}", *gpu])
    trace = Estimator(768).trace(experiment.model, experiment.data.image_size)
    # Rank 4 on qkv (d to 3 d) and proj (d to d) of every block; the head is Linear, Linear, LayerNorm.
    adapters, head = blocks * 4 * (4 + 2) * width, 768 * width + width**2 + 4 * width
    assert (trace.parameters - trace.trainable) / 1e6 == pytest.approx(millions, abs=0.1)
    assert trace.trainable_bytes == {"image": 4 * adapters, "text": 4 * head}

    text = planned(experiment, store)
    assert f"a snapshot takes {4 * (adapters + head) / MIB:.1f} MiB" in text
    assert (f"{gib}.0 GiB: fits" in text) == fits
    assert (f"{gib}.0 GiB: too small" in text) == (not fits)
    sentences = [line for line in text.splitlines() if "do not fit" in line]
    if fits:
        assert not sentences
    else:
        (sentence,) = sentences
        assert sentence.startswith(
            "distillations do not fit: set distill.objective.gradient: finite_difference and "
            "model.image.grad_checkpointing: true ("
        )
        assert ", or distill.workers: 2 (" in sentence
        assert "or distill.batch_size: 16 and evaluation.batch_size: 32 (" in sentence


def test_a_plan_without_a_gpu_compares_nothing(store: Store) -> None:
    text = planned(load_experiment("jobs/presets/scenes.yaml", TINY), store)
    assert "fits" not in text
    assert "too small" not in text
    assert "activations" in text


def test_bytes_of_a_prepared_dataset_are_read_not_guessed(store: Store) -> None:
    experiment = load_experiment("jobs/presets/scenes.yaml", TINY)
    before = data_size(experiment, None)
    assert before is not None
    dataset = prepare(store, experiment.data)
    after = data_size(experiment, dataset.reader)
    assert after is not None
    assert (before.measured, after.measured) == (False, True)
    assert before.captions == after.captions == 5 * 72
    shards = [store.size(key) for key in store.keys("units/shard_group") if "train-" in key and key.endswith(".tar")]
    assert after.shards["train"] == sum(shards)
    assert before.shards["train"] == pytest.approx(sum(shards), rel=0.5)
    text = planned(experiment, store)
    assert "~" not in text
