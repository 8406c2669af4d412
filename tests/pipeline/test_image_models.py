"""Cross-architecture rows: each image model with its own weights, arguments and learning rates."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch

from vldd_dist.artifacts.tensor_files import tensors
from vldd_dist.artifacts.units import UnitReader
from vldd_dist.config.experiment import Experiment
from vldd_dist.errors import ConfigError, DataError
from vldd_dist.models.image.backbone import create_backbone
from vldd_dist.monitoring.reports.measured import Measured
from vldd_dist.pipeline.context import StageContext, read_rows
from vldd_dist.pipeline.execute import execute
from vldd_dist.pipeline.graphs.experiment import Graph
from vldd_dist.pipeline.stages.evaluation import training_pairs
from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny_experiment import experiment, run, workspace


def tree(*entries: str, **changes: Any) -> Experiment:
    overrides = [f"{key}={value}" for key, value in changes.items()]
    return experiment("pretrain.images=32", "pretrain.epochs=1", f"evaluation.image_models=[{', '.join(entries)}]", *overrides)


def evaluations(graph: Graph, image_model: str) -> list[WorkUnit]:
    """The evaluations of students with this image model."""
    units = [unit for unit in graph.wanted("evaluation") if "pairs" in unit.inputs]
    return [unit for unit in units if unit.spec["model"]["image"]["model"] == image_model]


def _pixels(context: StageContext) -> torch.Tensor:
    return read_rows(context.reader("pairs"), "pairs")["images"]


@pytest.fixture
def regnet(tmp_path: Path) -> Path:
    """A user's file of weights."""
    path = tmp_path / "regnet.safetensors"
    path.write_bytes(tensors.encode(create_backbone("regnetx_002", {}, pretrained=False, seed=7).state_dict()))
    return path


def assert_best_rate(store: Store, unit: WorkUnit, rates: list[float]) -> None:
    """The student's rate is the best of `rates` on the validation split."""
    facts = UnitReader(store, unit.kind, unit.id).manifest.facts
    means = {rate: recalls["mean"] for rate, recalls in facts["validation"]}
    assert list(means) == rates
    assert means[facts["learning_rate"]] == max(means.values())


def assert_same_images(store: Store, unit: WorkUnit, of_own_tower: WorkUnit) -> None:
    """Both towers get the same images, each in its own normalisation: those of the distilled set, or those of a coreset."""
    context, own = workspace(store, unit), workspace(store, of_own_tower)
    model = context.build_model(0)
    seen = training_pairs(context, model).rows["images"]
    stored = training_pairs(own, own.build_model(0)).rows["images"]
    distilled = unit.inputs["pairs"].kind == "distillation"
    torch.testing.assert_close(seen, stored * 0.25 + 0.5 if distilled else model.normalise(_pixels(own)))


def test_each_model_has_a_row_with_its_weights_and_its_learning_rate(without: Callable[[str], Store], regnet: Path) -> None:
    store = without("evaluation")
    graph = Graph(
        tree(
            "{model: test_resnet, weights: attributes}",
            "{model: test_vit, model_args: {img_size: 32}, learning_rates: [0.001, 0.1]}",
            f"{{model: regnetx_002, weights: {regnet}, mean: [0, 0, 0], std: [1, 1, 1]}}",
        )
    )
    run(store, graph.units())
    for name, rates in (("test_nfnet", [0.03]), ("test_resnet", [0.03]), ("test_vit", [0.001, 0.1]), ("regnetx_002", [0.03])):
        units = evaluations(graph, name)
        assert len(units) == 4, "three coresets and the distilled set"
        for unit in units:
            assert_best_rate(store, unit, rates)
    of_kind = {unit.inputs["pairs"].kind: unit for unit in evaluations(graph, "regnetx_002")}
    for unit in of_kind.values():
        own = next(one for one in evaluations(graph, "test_nfnet") if one.inputs["pairs"] == unit.inputs["pairs"])
        assert_same_images(store, unit, own)
    assert set(of_kind) == {"coreset", "distillation"}
    weights = graph.unit("image_weights", "regnetx_002")
    stored = tensors.decode(UnitReader(store, weights.kind, weights.id).read("weights.safetensors"), "regnet")
    given = tensors.decode(regnet.read_bytes(), "regnet")
    assert all(torch.equal(stored[name], tensor) for name, tensor in given.items())
    measured = Measured(store)
    measured.refresh(graph.units())
    rows = {(row.method, row.image_model) for row in measured.rows(graph)}
    students = {
        (method, name) for method in ("random", "distilled") for name in (None, "test_resnet", "test_vit", "regnetx_002")
    }
    assert rows >= students | {("full", None)}


def test_the_settings_of_an_entry_change_only_the_ids_of_its_own_students(regnet: Path, tmp_path: Path) -> None:
    plain = "{model: test_vit, weights: random}"
    before = Graph(tree(plain, "{model: test_resnet, weights: random}"))
    files = [tmp_path / f"{seed}.safetensors" for seed in range(2)]
    for seed, path in enumerate(files):
        path.write_bytes(tensors.encode(create_backbone("test_vit", {}, pretrained=False, seed=seed).state_dict()))
    ids = set()
    for change in (
        plain,
        "{model: test_vit, weights: attributes}",
        *(f"{{model: test_vit, weights: {path}}}" for path in files),
        "{model: test_vit, weights: random, model_args: {depth: 1}}",
        "{model: test_vit, weights: random, mean: [0, 0, 0]}",
        "{model: test_vit, weights: random, std: [1, 1, 1]}",
        "{model: test_vit, weights: random, learning_rates: [0.5]}",
    ):
        graph = Graph(tree(change, "{model: test_resnet, weights: random}"))
        ids.add(tuple(unit.id for unit in evaluations(graph, "test_vit")))
        for name in ("test_nfnet", "test_resnet"):
            assert [unit.id for unit in evaluations(graph, name)] == [unit.id for unit in evaluations(before, name)]
    assert len(ids) == 8
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes(regnet.read_bytes())
    graphs = [Graph(tree(f"{{model: regnetx_002, weights: {path}}}")) for path in (regnet, moved)]
    assert len({unit.id for graph in graphs for unit in evaluations(graph, "regnetx_002")}) == 4


@pytest.mark.parametrize(
    ("entry", "changes", "sentence"),
    [
        (
            "resnet5o",
            {},
            r"evaluation.image_models: with resnet5o, model.image.model: timm has no 'resnet5o'; similar names: .*resnet50",
        ),
        (
            "{model: test_vit, model_args: {nonsense: 1}}",
            {},
            r"with test_vit, model.image.model_args: test_vit does not take them",
        ),
        (
            "vit_tiny_patch16_224",
            {},
            r"with vit_tiny_patch16_224, data.image_size: vit_tiny_patch16_224 does not accept images of 32 px .*img_size: 32",
        ),
        (
            "test_resnet",
            {"model.image.model": "test_vit", "model.image.train": "lora"},
            r"with test_resnet, model.image.train: lora: the model has no linear layer to adapt",
        ),
    ],
)
def test_what_cannot_be_made_is_refused_before_anything_runs(entry: str, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        Graph(tree(entry, **changes))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"model.image.weights: \S+none.safetensors, for test_vit, cannot be read"):
        Graph(tree(f"{{model: test_vit, weights: {tmp_path / 'none.safetensors'}}}"))


def test_weights_of_another_model_are_refused_before_the_data_are_prepared(regnet: Path, store: Store) -> None:
    """A local file in the plan, another one by the unit that copies it."""
    sentence = r"model\.image\.weights: the weights lack .*: they are not of test_vit"
    with pytest.raises(DataError, match=sentence):
        Graph(tree(f"{{model: test_vit, weights: {regnet}}}"))
    fsspec.filesystem("memory").pipe("/of-another-model.safetensors", regnet.read_bytes())
    graph = Graph(tree("{model: test_vit, weights: 'memory://of-another-model.safetensors'}"))
    with pytest.raises(DataError, match=sentence):
        execute(graph.unit("image_weights", "test_vit").order(), store, lambda event: None)


@pytest.mark.parametrize("section", ["experts", "distill"])
def test_deepspeed_is_refused_for_a_model_with_parameters_without_dimensions(section: str) -> None:
    at = ["model.image.model=dm_nfnet_f0", f"{section}.workers=2", f"{section}.resources.cpus=1"]
    with pytest.raises(ConfigError, match=f"^{section}.sharding: zero2: .* as .*gain of dm_nfnet_f0: set .* fsdp or none"):
        Graph(experiment(*at, f"{section}.sharding=zero2"))
    Graph(experiment(*at, f"{section}.sharding=fsdp"))
