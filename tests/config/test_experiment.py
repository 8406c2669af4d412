"""The description of an experiment: which values are rejected, and with which messages."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
import yaml
from pydantic import BaseModel, TypeAdapter

from vldd_dist.config.experiment import Experiment
from vldd_dist.config.loading.descriptions import load_description
from vldd_dist.config.loading.load import load_experiment, resource_overrides
from vldd_dist.errors import ConfigError
from vldd_dist.plugins import METRICS

PRESETS = sorted(Path("jobs/presets").glob("*.yaml"))
SCENES = "jobs/presets/scenes.yaml"


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_every_preset_is_valid(preset: Path) -> None:
    """Also those for data that the user must have: their paths are the names of the published files, without folders."""
    assert load_description(preset, []).name == preset.stem
    assert not re.search(r"(?<!\.)\.\./", preset.read_text())


def test_a_plugins_name_and_settings_come_in_any_order(tmp_path: Path) -> None:
    name, settings = "data.source=karpathy", ["data.source.annotations=a.json", "data.source.images=folder"]
    orders = [[name, *settings], [*settings, name], [settings[0], name, settings[1]]]
    described = [load_experiment(SCENES, [*order, "model.image.weights=random"]).data.source for order in orders]
    assert described[0].name == "karpathy"
    assert described[0] == described[1] == described[2]
    whole = load_experiment(SCENES, [*settings, "data.source={name: scenes}"])
    assert whole.data.source.name == "scenes", "a mapping with a name replaces the earlier plug-in and its settings"


def test_a_name_is_set_before_its_settings_and_after_its_section() -> None:
    changes = ["model.loss={name: wbce, temperature: 0.07}", "model.loss.similarity.lr=0.01", "model.loss.similarity=full"]
    loss = load_experiment("scenes", changes).model.loss
    assert (loss.name, loss.temperature, loss.similarity.kind, loss.similarity.lr) == ("wbce", 0.07, "full", 0.01)


@pytest.mark.parametrize("loss", [None, "infonce", {"name": "infonce"}, {"name": "infonce", "temperature": 0.4}])
def test_however_the_file_writes_a_plugin_a_name_and_its_settings_replace_it(loss: Any, tmp_path: Path) -> None:
    tree = yaml.safe_load(Path(SCENES).read_text())
    tree["model"] |= {} if loss is None else {"loss": loss}
    (tmp_path / "one.yaml").write_text(yaml.safe_dump(tree))
    found = load_experiment(tmp_path / "one.yaml", ["model.loss.temperature=0.5", "model.loss=wbce"]).model.loss
    assert found.model_dump(include={"name", "temperature"}) == {"name": "wbce", "temperature": 0.5}


@pytest.mark.parametrize("name", ["runs", "tr1"])
def test_a_metric_with_the_name_of_another_column_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METRICS.entries, name, "vldd_dist.retrieval.metrics.median_rank:MedianRank")
    with pytest.raises(ConfigError, match=rf"evaluation.metrics: .*another column '{name}': register the metric under another"):
        load_experiment(SCENES, [f"evaluation.metrics=[{name}]"])


def test_overrides_are_yaml_values() -> None:
    experiment = load_experiment(SCENES, ["distill.pairs=[3, 4]", "experts.augment={flip: false}"])
    assert experiment.distill.pairs == [3, 4]
    assert experiment.experts.augment is not None
    assert experiment.experts.augment.flip is False


def numeric_fields(section: type[BaseModel], place: str = "") -> Iterator[str]:
    """Fields of the description, not of plug-ins, whose JSON schema asks for a number."""
    for name, field in section.model_fields.items():
        inner = [kind for kind in (field.annotation, *get_args(field.annotation)) if isinstance(kind, type)]
        # Sections in a list have no dotted keys.
        sections = [kind for kind in inner if issubclass(kind, BaseModel)]
        if sections and get_origin(field.annotation) is list:
            continue
        for one in sections:
            yield from numeric_fields(one, f"{place}{name}.")
        schema = TypeAdapter(Any if sections else field.annotation).json_schema()
        kinds = set(re.findall(r"'type': '(\w+)'", str(schema)))
        if kinds & {"integer", "number"} and "boolean" not in kinds:
            yield f"{place}{name}"


def test_booleans_are_refused_where_a_number_is_expected() -> None:
    names = list(numeric_fields(Experiment))
    assert len(names) > 40
    for name in names:
        for value in ("true", "[true]"):
            with pytest.raises(ConfigError, match=f"{re.escape(name)}: expected a number, not true or false"):
                load_experiment(SCENES, ["experts.augment={flip: false}", f"{name}={value}"])


def test_text_for_a_number_and_booleans_elsewhere_are_read() -> None:
    experiment = load_experiment(SCENES, ["seed='5'", "model.image.model_args={a: true}", "model.loss.learn_temperature=true"])
    assert (experiment.seed, experiment.model.image.model_args["a"]) == (5, True)
    assert experiment.model.loss.learn_temperature is True


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("experts.epoch=3", "experts.epoch: unknown key; did you mean 'epochs'?"),
        ("zzz=3", "zzz: unknown key"),
        ("data.source={name: karpathy, anotations: a.json}", "anotations: unknown key; did you mean 'annotations'?"),
        ("distill.objective.inner_step=3", "distill.objective.inner_step: unknown key; did you mean 'inner_steps'?"),
        ("coresets.methods=[{name: herding, nme: x}]", "coresets.methods.0.nme: unknown key; did you mean 'name'?"),
        ("seed=true", "seed: expected a number, not true or false (found True)"),
        ("experts.lr_image=false", "experts.lr_image: expected a number, not true or false"),
        ("distill.pairs=[true]", "distill.pairs: expected a number, not true or false (found [True])"),
        ("stall_timeout_seconds=true", "stall_timeout_seconds: expected a number"),
        ("experts.resources.cpus=true", "experts.resources.cpus: expected a number"),
        ("model.loss.temperature=true", "model.loss.temperature: expected a number"),
        (
            "distill.objective.max_start_epoch=9",
            "distill.objective.max_start_epoch (9) + distill.objective.expert_epochs (1) = 10 is more than experts.epochs (5)",
        ),
        (["distill.lr_images=0", "distill.lr_texts=0"], "distill.lr_images and distill.lr_texts are both 0"),
        ("distill.lr_texts=-1", "distill.lr_texts"),
        (
            ["distill.objective.temperature=0.4", "model.loss.learn_temperature=true"],
            "distill.objective.temperature: model.loss: infonce learns its temperature: leave",
        ),
        (
            ["distill.objective.max_start_epoch=9", "distill.objective.start_stride=5"],
            "the last start (5) + distill.objective.expert_epochs (1) = 6 is more than experts.epochs (5): lower",
        ),
        (
            "distill.objective.min_start_epoch=3",
            "distill.objective.min_start_epoch (3) is more than distill.objective.max_start_epoch (2): lower it",
        ),
        (
            "distill.objective.asynchronous={auto: true, image: [1]}",
            "distill.objective.asynchronous: auto finds the starts of both towers: leave image and text out, or auto",
        ),
        (
            "distill.objective.asynchronous={image: [5]}",
            "the last start (5) + distill.objective.expert_epochs (1) = 6 is more than experts.epochs (5)",
        ),
        (
            ["distill.objective.asynchronous={}", "model.text.train=frozen", "model.text.head.kind=none"],
            "distill.objective.asynchronous draws separate starts for two towers, but with model.text.train: frozen only one",
        ),
        (
            "distill.objective.shortcut={last_epoch: 9}",
            "distill.objective.shortcut.last_epoch (9) is more than experts.epochs (5): lower it or train longer",
        ),
        (
            "distill.objective.shortcut={first_epoch: 1}",
            "distill.objective.shortcut goes from epoch 1 to 3, but 0 to 3 are matched: set",
        ),
        ("distill.objective.blend={}", "distill.objective.blend mixes the features of a frozen backbone"),
        (
            ["distill.objective.blend={}", "model.image.train=head", "model.image.head.kind=linear", "model.joint_dim=8"],
            "distill.objective.blend needs the same kind of head on both towers, but model.image.head.kind is linear and",
        ),
        ("distill.objective.blend={beta: 0}", "distill.objective.blend.beta"),
        ("distill.objective.start_stride=0", "distill.objective.start_stride"),
        ("distill.pairs=[10, 5000]", "distill.pairs (5000) is more than the training images"),
        ("distill.pairs=[]", "distill.pairs"),
        ("experts.lr_image=-1", "experts.lr_image"),
        (
            "experts.resources.gpus=2",
            "experts.resources.gpus: a worker computes on one GPU: set 1; distill.workers or experts.work",
        ),
        ("experts.resources.gpus=1.5", "experts.resources.gpus: a worker computes on one GPU: set 1"),
        *(
            (
                f"experts.augment={{crop_scale: {scale}}}",
                "crop_scale: give two fractions of the area, the smaller first, for example",
            )
            for scale in ("[1.0, 0.5]", "[50, 100]", "[-1, 0.5]", "[0.0, 2.0]")
        ),
        (
            "data.source=karpathy",
            "data.source.annotations: missing: set it in the file or with --set data.source.annotations=",
        ),
        ("distill", "expected section.key=value"),
        ("name.first=x", "name is a value, not a section"),
        ("model.text.train=frozen", "would freeze a random head"),
        ("model.image.train=head", "model.image.train: head needs a head"),
        ("model.image.head.kind=linear", "model.joint_dim is needed"),
        ("distill.workers=11", "distill.workers (11) is more than the pairs in a step (10): lower it"),
        ("experts.workers=65", "experts.workers (65) is more than the pairs in a step (64): lower it"),
        ("distill.sharding=zero4", "distill.sharding"),
        ("distill.outer_steps=100000000", "distill.outer_steps"),
        ("device=cuda", "device"),
        ("experts.lr_image=.inf", "experts.lr_image: Input should be a finite number"),
        ("distill.objective.max_loss=.nan", "distill.objective.max_loss: Input should be a finite number"),
        ("model.image.mean=[0.5, .inf, 0.5]", "model.image.mean.1: Input should be a finite number"),
        ("model.image.mean=[123.675, 116.28, 103.53]", "model.image.mean.0: pixels are scaled to 0..1 first: divide it by 255"),
        ("model.image.std=[58.395, 57.12, 57.375]", "model.image.std.0: pixels are scaled to 0..1 first: divide it by 255"),
        ("model.image.mean=[-0.5, 0, 0]", "model.image.mean.0: "),
        (
            "evaluation.image_models=[{model: test_vit, std: [58.395, 57.12, 57.375]}]",
            "evaluation.image_models.0.std.0: pixels are scaled to 0..1 first",
        ),
        ("evaluation.learning_rates=[0.1, .inf]", "evaluation.learning_rates.1: Input should be a finite number"),
        ("model.image.model_args={drop_rate: .nan}", "Input should be a finite number"),
        ("model.image.model_args={released: 2020-10-13}", "not a valid JSON value"),
        ("model.image.model_args={checkpoint_path: a.pth}", "checkpoint_path says where weights come from: remove it"),
        ("evaluation.image_models=[{model: x, model_args: {cache_dir: x}}]", "cache_dir says where weights come from"),
        ("distill.seeds=[0, 1, 0]", "distill.seeds: 0 is listed twice: name each value once"),
        ("distill.pairs=[10, 10]", "distill.pairs: 10 is listed twice"),
        ("evaluation.seeds=[3, 3]", "evaluation.seeds: 3 is listed twice"),
        ("evaluation.seeds=[]", "evaluation.seeds"),
        ("evaluation.learning_rates=[0.1, 1.0e-1]", "evaluation.learning_rates: 0.1 is listed twice"),
        ("evaluation.image_models=[test_vit, test_vit]", "evaluation.image_models: 'test_vit' is listed twice"),
        (
            "evaluation.image_models=[test_vit, {model: test_vit, weights: random}]",
            "evaluation.image_models: 'test_vit' is listed twice",
        ),
        ("evaluation.image_models=[{weights: random}]", "evaluation.image_models.0.model: missing"),
        (
            "evaluation.image_models=[{model: test_vit, wieghts: random}]",
            "evaluation.image_models.0.wieghts: unknown key; did you mean 'weights'?",
        ),
        (
            "evaluation.image_models=[{model: test_vit, mean: [true, 0, 0]}]",
            "evaluation.image_models.0.mean: expected a number, not true or false",
        ),
        (
            "evaluation.image_models=[{model: test_nfnet, weights: random}]",
            "test_nfnet is model.image.model, which always has a row of its own: remove the entry or its weights",
        ),
        (
            ["model.image.weights=nfnet.safetensors", "evaluation.image_models=[{model: test_vit}]"],
            "evaluation.image_models: test_vit needs weights of its own (timm, random, attributes or a file), because "
            "model.image.weights is a file of test_nfnet: write {model: test_vit, weights: ...}",
        ),
        (
            [
                "data.source={name: karpathy, annotations: a.json, images: b}",
                "model.image.weights=random",
                "evaluation.image_models=[{model: a, weights: attributes}]",
            ],
            "weights in evaluation.image_models: attributes needs data.source: scenes",
        ),
        ("pretrain.images=65", "pretrain.images (65) leaves a last batch of one image"),
        ("coresets.methods=[random, random]", "coresets.methods: 'random' is listed twice"),
        ("data.licence=2020-13-45", "2020-13-45 is not a YAML value (month must be in 1..12)"),
        ("seed=!!int abc", "is not a YAML value (invalid literal for int()"),
        (f"seed={'9' * 5000}", "is not a YAML value (Exceeds the limit"),
        (f"seed={'9' * 4000}", "seed: Input should be less than"),
        ("seed=!!bool perhaps", "is not a YAML value"),
        ("data.licence=!!timestamp yesterday", "is not a YAML value"),
        ("data.licence={a: 1, a: 2}", "the key 'a' is written twice"),
        (r'data.licence="\ud800"', "half a surrogate pair"),
        (r'data.licence="a\0b"', "a NUL"),
        ("model.image.model_args=&loop {a: *loop}", "nested deeper than 64 levels, or in itself"),
        (f"name={'[' * 100}{']' * 100}", "is not a YAML value (nested deeper"),
        (f"name={'[' * 2000}", "is not a YAML value"),
        ("experts.count=999999999", "ask for about 1,000,000,0"),
        ("name=" + "x" * 200, "name: String should have at most 100 characters"),
        (["distill.workers=2", "distill.objective.gradient=full"], "full keeps one graph in one process"),
        (
            ["distill.precision=bf16", "distill.objective.gradient=finite_difference"],
            "the rounding error of bf16 is larger than the difference",
        ),
        (
            ["model.image.train=head", "model.image.head.kind=linear", "model.joint_dim=8", "experts.sharding=zero3"],
            "experts.sharding (zero3) shards trained parameters",
        ),
    ],
)
def test_a_wrong_value_is_a_one_sentence_error(override: str | list[str], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_experiment(SCENES, [override] if isinstance(override, str) else override)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_image_models_inherit_the_settings_of_the_image_tower() -> None:
    entries = "[test_resnet, {model: test_vit, model_args: {depth: 1}, weights: random, mean: [0, 0, 0], learning_rates: [1]}]"
    experiment = load_experiment(SCENES, [f"evaluation.image_models={entries}", "model.image.grad_checkpointing=true"])
    assert experiment.image_models() == ["test_nfnet", "test_resnet", "test_vit"]
    own, resnet, vit = map(experiment.image_tower, experiment.image_models())
    assert own == experiment.model.image
    assert resnet == own.model_copy(update={"model": "test_resnet", "model_args": {}})
    assert vit.model_dump() == own.model_dump() | {
        "model": "test_vit",
        "model_args": {"depth": 1},
        "weights": "random",
        "mean": (0, 0, 0),
    }
    assert [experiment.evaluation_on(name).learning_rates for name in experiment.image_models()] == [
        [0.03, 0.1],
        [0.03, 0.1],
        [1],
    ]
    assert experiment.evaluation_on("test_vit").epochs == experiment.evaluation.epochs


def test_the_own_tower_may_be_among_the_image_models() -> None:
    """So that experiments with different towers can share one list."""
    same = "{model: test_nfnet, weights: attributes, mean: [0.5, 0.5, 0.5]}"
    for entry in ("test_nfnet", same):
        experiment = load_experiment(SCENES, [f"evaluation.image_models=[test_vit, {entry}]"])
        assert experiment.image_models() == ["test_nfnet", "test_vit"]


def test_a_missing_file_and_broken_yaml_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: no such file"):
        load_experiment(tmp_path / "none.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("name: [")
    with pytest.raises(ConfigError, match=r"broken\.yaml: cannot be read as YAML"):
        load_experiment(broken)
    broken.write_text("- a list")
    with pytest.raises(ConfigError, match=r"broken\.yaml: expected a mapping"):
        load_experiment(broken)
    for data, sentence in (
        (b"\xff\xfe", "cannot be read as YAML"),
        (b"seed: 1\nseed: 2", "the key 'seed' is written twice"),
        (b"name: " + b"x" * (1 << 20), "larger than 256 KiB"),
    ):
        broken.write_bytes(data)
        with pytest.raises(ConfigError, match=rf"broken\.yaml: .*{sentence}"):
            load_experiment(broken)


def test_yaml_aliases_that_expand_to_too_many_values_are_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    bomb = tmp_path / "bomb.yaml"
    bomb.write_text("\n".join(lines))
    with pytest.raises(ConfigError, match="more than 100,000 values"):
        load_experiment(bomb)


@pytest.mark.parametrize("section", ["distill", "experts"])
def test_ranks_do_not_share_a_gpu(section: str) -> None:
    half = [f"{section}.workers=2", f"{section}.resources.gpus=0.5"]
    with pytest.raises(ConfigError, match=rf"{section}.resources.gpus \(0.5\): the ranks of a unit cannot share a GPU"):
        load_experiment("scenes", half)
    for allowed in (half[1:], [half[0], f"{section}.resources.gpus=1"]):
        load_experiment("scenes", allowed)


def test_the_memory_of_a_gpu_is_set_in_every_section() -> None:
    overrides = resource_overrides(0.5, 24)
    tree = load_experiment("coco-nfnet-bert", ["data.source.annotations=a", "data.source.images=b", *overrides]).model_dump()
    resources = {
        key: section["resources"] for key, section in tree.items() if isinstance(section, dict) and "resources" in section
    }
    assert len(resources) == 7
    assert {(one["gpus"], one["gpu_memory_gib"]) for one in resources.values()} == {(0.5, 24)}
    with pytest.raises(ConfigError, match="--gpu-memory 0: expected the memory of a GPU in GiB, for example 24"):
        resource_overrides(None, 0)
