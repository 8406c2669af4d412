"""Studies: the variants that a file describes, and a one-sentence error for each mistake."""

import os
import threading
from pathlib import Path

import pytest
import yaml

from tests.studies import load_study
from vldd_dist.config.experiment import Experiment
from vldd_dist.config.loading.descriptions import LoadedStudy, load_description
from vldd_dist.config.loading.load import load_experiment
from vldd_dist.errors import ConfigError


def written(folder: Path, **study: object) -> Path:
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({"name": "try", "base": "scenes"} | study, sort_keys=False))
    return path


def test_axes_are_crossed_and_named_variants_follow(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        vary={
            "distill.objective.inner_steps": [4, 6],
            "tower": {"nfnet": {}, "vit": {"model.image.model": "test_vit", "model.image.train": "lora"}},
        },
        variants={"noise": {"distill.initialise": "noise"}},
    )
    experiments = load_study(path).experiments
    told = {
        name: (one.distill.objective.inner_steps, one.model.image.model, one.model.image.train, one.distill.initialise.name)
        for name, one in experiments.items()
    }
    assert told == {
        "4-nfnet": (4, "test_nfnet", "full", "k_means"),
        "4-vit": (4, "test_vit", "lora", "k_means"),
        "6-nfnet": (6, "test_nfnet", "full", "k_means"),
        "6-vit": (6, "test_vit", "lora", "k_means"),
        "noise": (8, "test_nfnet", "full", "noise"),
    }
    assert [one.name for one in experiments.values()] == [f"try-{name}" for name in experiments]


def test_a_plugin_and_its_settings_may_be_two_axes(tmp_path: Path) -> None:
    for axes in ({"distill.initialise": ["noise", "real"]}, {"distill.objective": ["bilevel"]}):
        for vary in (axes | (steps := {"distill.objective.inner_steps": [4, 6]}), steps | axes):
            experiments = load_study(written(tmp_path, vary=vary)).experiments
            assert [one.distill.objective.inner_steps for one in experiments.values()].count(4) == len(experiments) / 2


def test_a_variant_without_changes_is_the_base(tmp_path: Path) -> None:
    study = load_study(written(tmp_path, variants={"base": {}}))
    assert study.experiments["base"] == load_experiment("scenes").model_copy(update={"name": "try-base"})


def test_overrides_change_the_base_and_variants_have_the_last_word(tmp_path: Path) -> None:
    path = written(tmp_path, variants={"one": {}, "two": {"experts.count": 2}})
    experiments = load_study(path, ["experts.count=5", "experts.epochs=7"]).experiments
    assert [(one.experts.count, one.experts.epochs) for one in experiments.values()] == [(5, 7), (2, 7)]


def test_an_override_without_an_effect_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = written(tmp_path, variants={"one": {}, "two": {"experts.count": 2}, "three": {"experts.count": 3}})
    load_study(path, ["experts.count=5", "experts.epochs=7"])
    assert caplog.messages == ["--set experts.count: has no effect on the variants that set it: two, three"]
    path = written(tmp_path, vary={"distill.objective": ["bilevel", "distribution_matching"]}, set={"experts.count": 2})
    for key in ("distill.objective", "distill.objective.name"):
        with pytest.raises(ConfigError, match=rf"--set {key}: has no effect, because every variant sets it: change it in"):
            load_study(path, [f"{key}=bilevel"])
    load_study(path, ["experts.count=5"])
    path = written(tmp_path, variants={"one": {"distill.resources.gpus": 0.5}})
    load_study(path, ["experts.resources.gpus=1", "distill.resources.gpus=1"])


def test_set_overrides_the_base_and_is_overridden_by_the_command_line(tmp_path: Path) -> None:
    path = written(tmp_path, set={"experts.count": 6, "experts.epochs": 6}, variants={"one": {}, "two": {"experts.count": 2}})
    experiments = load_study(path, ["experts.epochs=7"]).experiments
    assert [(one.experts.count, one.experts.epochs) for one in experiments.values()] == [(6, 7), (2, 7)]
    with pytest.raises(ConfigError, match=r"set\.name\.x: name is a value"):
        load_study(written(tmp_path, set={"name.x": 6}, variants={"one": {}}))


def test_a_variant_may_set_what_the_base_lacks(tmp_path: Path) -> None:
    base = {"data": {"source": "karpathy"}}
    paths = {"data.source.annotations": "a.json", "data.source.images": "images"}
    assert load_study(written(tmp_path, base=base, variants={"a": paths})).experiments["a"].data.source.images == "images"
    with pytest.raises(ConfigError, match=r"study\.yaml: variant a: data\.source\.annotations: missing"):
        load_study(written(tmp_path, base=base, variants={"a": {"data.source.images": "images"}}))


def test_a_section_as_a_value_does_not_reset_the_rest_of_the_section(tmp_path: Path) -> None:
    lost = (
        r"variant a: distill: would reset pairs, outer_steps and \d more to the default: write distill\.initialise, or give all"
    )
    with pytest.raises(ConfigError, match=lost):
        load_study(written(tmp_path, variants={"real": {}, "a": {"distill": {"initialise": "noise"}}}))
    tower = {"model": "test_vit", "model_args": {"img_size": 32}}
    with pytest.raises(
        ConfigError, match=r"model\.image: would reset weights, mean and 1 more to the default: write model\.image\.model,"
    ):
        load_study(written(tmp_path, variants={"a": {"model.image": tower}}))
    for change, key in (
        ("distill={pairs: [30]}", "distill.pairs"),
        ("distill.objective={inner_steps: 4}", "distill.objective.inner_steps"),
        ("model.loss.similarity={lr: 0.1}", "model.loss.similarity.lr"),
    ):
        similarity = "model.loss={name: wbce, similarity: {kind: full}}"
        with pytest.raises(
            ConfigError, match=rf"--set {change.partition('=')[0]}: would reset .*: write {key}, or give all keys"
        ):
            load_experiment("scenes", [similarity, change])
    with pytest.raises(ConfigError, match=r"would reset resources\.gpus to the default: give all keys of distill\.resources$"):
        load_study(
            written(
                tmp_path,
                base={"distill": {"resources": {"cpus": 4, "gpus": 1}, "pairs": [10]}},
                variants={"a": {"distill": {"pairs": [30], "resources": {"cpus": 2}}}},
            )
        )
    hub = ["data.source={name: hf, path: a, splits: {train: b, val: c, test: d}}", "model.image.weights=random"]
    head = ["model.image.head={kind: linear}", "model.image.head={kind: projection, dropout: 0.1}", "model.joint_dim=8"]
    for changes in (
        head,
        ["distill.objective={name: bilevel}"],
        ["distill.initialise={name: noise}", "distill.initialise={images: noise, texts: real}"],
        ["experts.augment={flip: false}", "experts.augment={}"],
        ["model.image.model_args={act_layer: relu}", "model.image.model_args={drop_rate: 0.0}"],
        ["model.loss={name: wbce, similarity: {kind: low_rank, rank: 4}}", "model.loss.similarity={kind: full, lr: 0.1}"],
        [*hub, "data.source.splits={train: b, val: c}"],
    ):
        load_experiment("scenes", changes)


def test_a_base_beside_the_study_comes_before_a_preset(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("name: own\nexperts: {count: 4}\n")
    assert load_study(written(tmp_path, base="own.yaml", variants={"a": {}})).experiments["a"].experts.count == 4


def test_studies_and_experiments_are_distinguished_by_their_keys(tmp_path: Path) -> None:
    assert isinstance(load_description(written(tmp_path, variants={"a": {}})), LoadedStudy)
    assert isinstance(load_description("scenes"), Experiment)


@pytest.mark.parametrize("text", ["name: own\n", "name: try\nbase: scenes\nvariants: {a: {}}\n"])
def test_a_description_is_read_from_a_pipe(text: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=(text,), daemon=True)
    writer.start()
    assert load_description(tmp_path / "pipe", ["experts.count=3"]).name in ("own", "try")
    writer.join()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "variants: {on: {}, off: {}}",
            "variants: expected a text: YAML reads on, off, yes and no as true or false: write it in",
        ),
        ("variants: {100: {}}", "variants: expected a text: YAML reads it as a number: write it in quotes (found 100)"),
        ("vary: {seed: {yes: {seed: 1}}}", "vary.seed: expected a text: YAML reads on, off, yes and no as true or false"),
    ],
)
def test_a_label_that_yaml_does_not_read_as_a_text(text: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(f"name: try\nbase: scenes\n{text}\n")
    with pytest.raises(ConfigError) as caught:
        load_study(tmp_path / "study.yaml")
    assert sentence in str(caught.value)


def test_a_folder_beside_a_study_does_not_hide_the_preset_in_its_base(tmp_path: Path) -> None:
    (tmp_path / "scenes").mkdir()
    study = load_study(written(tmp_path, base="scenes", vary={"distill.pairs": [[3], [4]]}))
    assert [one.distill.pairs for one in study.experiments.values()] == [[3], [4]]
    (tmp_path / "scenes/experiment.yaml").write_text("name: own\n")
    with pytest.raises(ConfigError, match=r"scenes: is a folder: did you mean .*scenes/experiment\.yaml\?"):
        load_study(tmp_path / "study.yaml")


def test_a_folder_does_not_hide_a_preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be the store of the preset's run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scenes").mkdir()
    assert load_description("scenes").name == "scenes"
    (tmp_path / "scenes" / "experiment.yaml").write_text("name: own\n")
    with pytest.raises(ConfigError, match=r"scenes: is a folder: did you mean scenes/experiment\.yaml\?"):
        load_description("scenes")


def test_variants_with_the_same_distilled_sets_may_differ_in_coresets_of_the_table(tmp_path: Path) -> None:
    variants, table = (
        {"a": {}, "b": {"coresets.methods": ["prototypes"]}},
        {"title": "T", "methods": ["distilled", "prototypes"]},
    )
    study = load_study(written(tmp_path, variants=variants, tables={"t": table}))
    assert set(study.experiments) == {"a", "b"}


@pytest.mark.parametrize(
    ("study", "sentence"),
    [
        ({}, r"a study needs `vary` or `variants`"),
        ({"variants": {"A": {}}}, r"'A' is not a name: write up to 60"),
        ({"vary": {"seed": []}}, r"a study needs `vary` or `variants`"),
        ({"vary": {"seed": [1, "1"]}}, r"vary\.seed: two values have the same label \(1, 1\)"),
        (
            {"vary": {"size": {"small": {"distill.pairs": [10], "seed": 1}, "large": {"distill.pairs": [20]}}, "seed": [2, 3]}},
            r"vary\.size and vary\.seed both set seed: set it in one of them",
        ),
        (
            {"vary": {"a": {"b": {"distill.objective": {"name": "bilevel"}}}, "distill.objective.inner_steps": [2, 3]}},
            r"vary\.a sets all of distill\.objective, and vary\.distill\.objective\.inner_steps sets distill\.objective\.inner",
        ),
        ({"vary": {"seed": [1]}, "variants": {"1": {}}}, r"two variants are named 1: rename"),
        ({"vary": {"seed": list(range(40)), "experts.count": list(range(1, 40))}}, r"more than 1,000 combinations"),
        ({"variants": {"a": {}, "b": {}}}, r"the variants a and b are the same experiment"),
        ({"variants": {"a": {"name.x": 1}}}, r"variant a: name\.x: name is a value, not a section"),
        ({"variants": {"a": {"experts.cuont": 1}}}, r"variant a: experts\.cuont: unknown key; did you mean 'count'\?"),
        ({"variants": {"a": {"experts.count": 0}}}, r"variant a: experts\.count: .*greater than 0"),
        (
            {"variants": {"a": {}}, "tables": {"t": {"title": "T", "variants": ["b"]}}},
            r"tables\.t\.variants: b is not a variant: choose from a",
        ),
        ({"variants": {"a": {}}, "tables": {"t": {"title": "T", "metrics": ["r1"]}}}, r"'r1' is not a metric: choose from tr1"),
        (
            {"variants": {"a": {}}, "tables": {"t": {"title": "T", "methods": ["herdin"]}}},
            r"t\.methods: .* has herdin: ",
        ),
        (
            {"variants": {"a": {}}, "tables": {"t": {"title": "T", "pairs": [11]}}},
            r"tables\.t\.pairs: .* 11 pairs: choose from 10, 20",
        ),
        (
            {"variants": {"a": {}}, "tables": {"t": {"title": "T", "budgets": {11: 12}}}},
            r"tables\.t\.budgets: .* 11 pairs: choose from 10, 20",
        ),
        (
            {
                "variants": {"a": {}, "b": {"seed": 1}},
                "tables": {"t": {"title": "T", "variants": ["a"], "published": {"b": ["x"]}}},
            },
            r"tables\.t\.published: b is not a variant of the table: choose from a$",
        ),
        (
            {"variants": {"a": {}}, "tables": {"t": {"title": "T", "published": "lors-flickr30k"}}},
            r"tables\.t\.published: expected a list: write \[lors-flickr30k\]",
        ),
        (
            {"variants": {"a": {}}, "tables": {"t": {"title": "T", "published": {"a": "lors-flickr30k"}}}},
            r"tables\.t\.published\.a: expected a list: write \[lors-flickr30k\]",
        ),
        ({"variants": {"a": {}}, "tables": {"t": {"title": "T", "image_models": "all"}}}, r"has evaluation\.image_models"),
        (
            {"variants": {"a": {}, "b": {"coresets.methods": ["prototypes"]}}},
            r"tables\.all\.methods: a and b have the same distilled sets, .* list such coresets in methods",
        ),
        (
            {
                "variants": {"a": {}, "b": {"coresets.methods": ["random", "prototypes"]}},
                "tables": {"t": {"title": "T", "methods": ["distilled", "full", "random"]}},
            },
            r"tables\.t\.methods: a and b have the same distilled sets",
        ),
        ({"variants": {"a": {}}, "tabels": {}}, r"tabels: unknown key; did you mean 'tables'\?"),
        ({"base": 3, "variants": {"a": {}}}, r"base: expected a description, a preset's name"),
        ({"base": "nothing", "variants": {"a": {}}}, r"nothing: no such file, and no preset of this name"),
        ({"name": "Try It", "variants": {"a": {}}}, r"name: "),
    ],
)
def test_invalid_studies_are_one_sentence_errors(tmp_path: Path, study: dict, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence) as raised:
        load_study(written(tmp_path, **study))
    assert "\n" not in str(raised.value)
