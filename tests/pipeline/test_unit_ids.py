"""Which settings are part of the ids of units, so that a change of them means computing the units again."""

from collections.abc import Callable
from pathlib import Path

import pytest

from vldd_dist.artifacts.units import UnitReader
from vldd_dist.config.experiment import Experiment
from vldd_dist.config.sections.model import TextTowerSettings
from vldd_dist.distilled_set.distilled import DistilledSet
from vldd_dist.models.text.identity import text_folder
from vldd_dist.pipeline.graphs.experiment import Graph
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny_experiment import experiment, run, units_of, workspace
from vldd_dist.testing.experiments.tiny_units import digests

# An experiment with units of all kinds that build a model.
CHECKPOINTING = "model.image.grad_checkpointing=true"
GRADIENT = "distill.objective.gradient"


def changed_kinds(one: Experiment, other: Experiment) -> set[str]:
    """The kinds with units that only one of the experiments has."""
    ids, others = ({(unit.kind, unit.id) for unit in Graph(tree).units()} for tree in (one, other))
    return {kind for kind, _ in ids ^ others}


def test_another_licence_changes_only_the_publication() -> None:
    assert changed_kinds(experiment(), experiment("data.licence=MIT")) == {"publication"}


def test_a_set_has_the_licence_of_its_own_run(without: Callable[[str], Store]) -> None:
    """The data in the store were prepared by a run with another licence."""
    store, tree = without("publication"), experiment("data.licence=MIT")
    run(store, Graph(tree).units())
    (publication,), (dataset,) = units_of(tree, "publication"), units_of(tree, "dataset")
    published = DistilledSet.load(store.url_of(UnitReader(store, publication.kind, publication.id).manifest.facts["folder"]))
    assert published.facts["data"]["licence"] == "MIT"
    assert UnitReader(store, dataset.kind, dataset.id).manifest.facts["licence"] == "CC0-1.0"


@pytest.mark.parametrize(
    ("setting", "without_effect", "with_effect"),
    [
        ("distill.momentum=0.9", "distill.optimiser=adam", "distill.optimiser=sgd"),
        *(
            ("distill.objective.difference=forward", f"{GRADIENT}={gradient}", f"{GRADIENT}=finite_difference")
            for gradient in ("full", "exact", "tesla")
        ),
        ("model.text.head.dropout=0.3", "model.text.head.kind=linear", "model.text.head.kind=projection"),
        ("model.image.head.dropout=0.3", "model.image.head.kind=none", "model.image.head.kind=projection"),
        ("model.image.lora.rank=8", "model.image.train=full", "model.image.train=lora"),
        (
            "experts.augment.randaugment_magnitude=3",
            "experts.augment={randaugment_ops: 0}",
            "experts.augment={randaugment_ops: 1}",
        ),
    ],
)
def test_a_setting_without_effect_changes_no_id(setting: str, without_effect: str, with_effect: str) -> None:
    vit = ["model.image.model=test_vit", "model.image.model_args={img_size: 32}", "model.joint_dim=64"]
    pairs = [(experiment(*vit, other), experiment(*vit, other, setting)) for other in (without_effect, with_effect)]
    same, different = (changed_kinds(*pair) for pair in pairs)
    assert same == set()
    assert {"distillation", "evaluation", "publication"} <= different


def test_settings_of_data_whose_effect_is_in_the_groups_change_no_id_of_the_dataset(tmp_path: Path) -> None:
    """The tiny experiment has fewer images than a group, and its source has all splits."""
    assert changed_kinds(experiment(), experiment("data.group_images=100", "data.split={val: 0.2, test: 0.1}")) == set()
    assert {"shard_group", "dataset"} <= changed_kinds(experiment(), experiment("data.group_images=10"))
    (tmp_path / "pairs.csv").write_text("image,caption\n" + "".join(f"{number}.jpg,a picture\n" for number in range(200)))
    limits = [f"data.{split}_images=null" for split in ("train", "val", "test")]
    table = [*limits, f"data.source={{name: table, path: {tmp_path / 'pairs.csv'}}}"]
    assert {"shard_group", "dataset"} <= changed_kinds(experiment(*table), experiment(*table, "data.split.val=0.2"))


@pytest.mark.parametrize("limit", ["1.5", "null"])
def test_another_limit_of_the_loss_changes_no_id(limit: str) -> None:
    """It only ends a distillation, of all pairs or of a part of the data by an application."""
    assert changed_kinds(experiment(), experiment(f"distill.objective.max_loss={limit}")) == set()
    part = ["model.image.train=head", "model.image.weights=attributes", "model.image.head.kind=linear", "model.joint_dim=16"]
    part += ["data.val_images=60", "data.test_images=60"]
    objectives = [f"{{name: bilevel, teacher_weight: 0, max_loss: {value}}}" for value in ("null", limit)]
    runs = [
        f"applications.run=[{{name: continual_learning, tasks: 2, pairs_per_task: 4, distill: {{objective: {text}}}}}]"
        for text in objectives
    ]
    assert changed_kinds(*(experiment(*part, application) for application in runs)) == set()


def test_the_path_of_a_local_text_encoder_changes_no_id(tmp_path: Path) -> None:
    folder, trees = text_folder(TextTowerSettings(model="minilm")), []
    assert folder is not None
    for place in ("workstation", "cluster"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "encoder").symlink_to(folder)
        trees.append(experiment(f"model.text.model={tmp_path / place / 'encoder'}"))
    assert changed_kinds(*trees) == set()
    assert "expert" in changed_kinds(trees[0], experiment())


def test_an_expert_is_not_evaluated_again_because_students_are_trained_differently() -> None:
    trees = [experiment(f"evaluation.epochs={epochs}", "evaluation.learning_rates=[0.01]") for epochs in (2, 3)]
    ids, others = ({unit.id for unit in units_of(tree, "evaluation") if "expert" in unit.inputs} for tree in trees)
    assert ids == others
    assert len(ids) == trees[0].experts.count
    assert changed_kinds(*trees) == {"distillation", "evaluation", "publication"}


def test_a_gpu_for_coresets_is_used_for_features_and_changes_no_id() -> None:
    """A selection computes on CPUs: with a GPU of its own it would keep evaluations from running."""
    with_gpu = experiment("coresets.resources={cpus: 3, gpus: 1, gpu_memory_gib: 80}")
    assert changed_kinds(experiment(), with_gpu) == set()
    asked = {kind: {(unit.cpus, unit.gpus) for unit in units_of(with_gpu, kind)} for kind in ("features", "coreset")}
    assert asked == {"features": {(3, 1)}, "coreset": {(3, 0)}}


def test_checkpointing_is_in_no_id_and_reaches_the_model(finished: Store) -> None:
    plain, recomputing = experiment(), experiment(CHECKPOINTING)
    assert changed_kinds(plain, recomputing) == set()
    for kind in ("expert", "features", "distillation", "evaluation", "publication"):
        for tree in (plain, recomputing):
            model = workspace(finished, units_of(tree, kind)[0]).build_model(0)
            assert model.recomputes == (tree is recomputing), kind


@pytest.mark.parametrize("kind", ["expert", "features", "distillation", "evaluation"])
def test_units_with_checkpointing_have_the_same_bits(kind: str, finished: Store, recomputed: Store) -> None:
    for unit in units_of(experiment(), kind):
        assert digests(recomputed, unit) == digests(finished, unit)


@pytest.fixture(scope="module")
def recomputed(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The store of the tiny experiment with gradient checkpointing."""
    store = Store(str(tmp_path_factory.mktemp("recomputed")))
    run(store, Graph(experiment(CHECKPOINTING)).units())
    return store
