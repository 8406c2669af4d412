"""The most likely mistakes are answered with what to write."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.studies import load_study
from vldd_dist.config.loading import strict_yaml
from vldd_dist.config.loading.load import load_experiment, resource_overrides
from vldd_dist.errors import ConfigError
from vldd_dist.plugins import LOSSES


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("distill.pairs=100", "distill.pairs: expected a list: write [100]"),
        ("evaluation.seeds=3", "evaluation.seeds: expected a list: write [3]"),
        ("evaluation.learning_rates=0.1", "expected a list: write [0.1]"),
        ("coresets.methods=random", "coresets.methods: expected a list: write [random]"),
        ("applications.run=x", "expected a list: write [x]"),
        (
            "data.source={name: table, path: x.csv, caption_columns: caption}",
            "caption_columns: expected a list: write [caption]",
        ),
        ("data.card.language=en", "expected a list: write [en]"),
        *(
            (f"experts.augment={value}", "expected a mapping of settings, {} for the defaults, or null for none")
            for value in ("false", "true", "none")
        ),
        ("distill.objective.blend=true", "expected a mapping of settings, {} for the defaults, or null for none"),
        ("distill.objective.shortcut=true", "expected a mapping of settings, {} for the defaults, or null for none"),
        ("model.image.head=linear", "model.image.head: expected a mapping of settings: write {kind: linear}"),
        ("distill.outer_steps=1e3", "expected a whole number: write 1000"),
        ("name=first_run", "name: write lower-case letters, digits and dashes: first-run"),
        ("name=мое", "name: write lower-case letters, digits and dashes (found"),
        ("name=My Experiment", "name: write lower-case letters, digits and dashes: my-experiment"),
        (
            "data.card.language=[no]",
            "data.card.language.0: expected a text: YAML reads on, off, yes and no as true or false: write it in quotes",
        ),
        ("data.licence=2024-05-01", "data.licence: expected a text: YAML reads it as a date: write it in quotes"),
        ("data.licence=a #b", """--set data.licence=a #b: #b is a comment in YAML: write 'data.licence="..."', or remove it"""),
        ("data.card.name=#1", "#1 is a comment in YAML"),
        ("distill=pairs: [20] # few", "# few is a comment in YAML"),
        ("data.card.language=[english]", "data.card.language.0: write an ISO 639 code such as en"),
        ("distill.pairs=[0100]", "0100 would be the octal number 64: leave out the zeros before it, or quote it"),
        ("seed=-010", "-010 would be the octal number -8"),
        ("evaluation.learning_rates=[1:30]", "1:30 would be 90, a number to the base of 60: write that number, or quote it"),
        ("evaluation.learning_rates=[1:30.5]", "1:30.5 would be 90.5, a number to the base of 60"),
        ("data.max_bad_fraction=5%", "expected a fraction such as 0.05"),
        ("stall_timeout_seconds=10m", "expected seconds, without a unit"),
        ("distill.resources.gpu_memory_gib=24GB", "expected GiB, without a unit"),
        ("data.image_size=[224, 224]", "expected a whole number: write 224"),
        ("data.train_images=3e6", "expected a whole number: write 3000000 (found '3e6')"),
        ("seed='0.5'", "expected a whole number (found '0.5')"),
        ("seed='inf'", "expected a whole number (found 'inf')"),
        ("distill.pairs=", "distill.pairs: expected a list (found None)"),
        ("seed=one", "seed: expected a whole number (found 'one')"),
        (
            ["model.image.train=frozen", "model.text.train=frozen", "model.text.head.kind=none"],
            "model.image.train and model.text.train are both frozen, so that nothing is trained: set one to head",
        ),
        ("data.split={val: 0.6, test: 0.4}", "val (0.6) and test (0.4) leave nothing to train on: lower one of them"),
        (
            "coresets.methods=[3]",
            "coresets.methods.0: expected the name of a coreset, or a mapping with `name` and its settings",
        ),
        (
            ["experts.augment=null", "experts.augment.flip=true"],
            "experts.augment.flip: augment is null: write experts.augment={flip: ...}",
        ),
        ("distill..pairs=[1]", "--set distill..pairs=[1]: expected section.key=value, for example"),
        (
            ["distill.objective.temperature=0.4", "model.loss=squares"],
            "model.loss: squares has no temperature: leave distill.objective.temperature out",
        ),
        (
            ["distill.objective={name: bilevel}", "model.loss=squares"],
            "model.loss: squares has no temperature: set distill.objective.teacher_weight to 0",
        ),
    ],
)
def test_a_likely_mistake_is_answered_with_what_to_write(
    override: str | list[str], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LOSSES.entries, "squares", "tests.models.test_losses:Squares")
    with pytest.raises(ConfigError) as caught:
        load_experiment("scenes", [override] if isinstance(override, str) else override)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("distill.batch_size=1", "distill.batch_size"),
        ("distill.pairs=[4, 1]", "distill.pairs.1"),
        ("distill.phases=[{pairs: 1}, {}]", "distill.phases.0.pairs"),
        ("evaluation.batch_size=1", "evaluation.batch_size"),
        ("experts.batch_size=1", "experts.batch_size"),
        ("distill.objective={name: bilevel, real_batch_size: 1}", "distill.objective.real_batch_size"),
        ("distill.objective={name: covariance_matching, real_batch_size: 1}", "distill.objective.real_batch_size"),
        ("distill.objective={name: distribution_matching, pairs_per_step: 1}", "distill.objective.pairs_per_step"),
    ],
)
def test_a_batch_of_one_pair_is_refused(override: str, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_experiment("scenes", [override])
    assert f"{key}: a contrastive loss compares pairs, and learns nothing from one: set 2 or more" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "odd"),
    [
        (["distill.pairs=[4, 7]"], 7),
        (["distill.pairs=[10]", "distill.phases=[{pairs: 5}, {}]"], 5),
        (["distill.pairs=[4, 6]"], 0),
    ],
)
def test_batches_of_two_that_leave_one_pair_are_refused(changes: list[str], odd: int) -> None:
    changes = [*changes, "evaluation.batch_size=2"]
    if not odd:
        load_experiment("scenes", changes)
        return
    with pytest.raises(ConfigError, match=f"evaluation.batch_size: batches of 2 leave one of {odd} pairs alone") as caught:
        load_experiment("scenes", changes)
    assert str(caught.value).endswith("set 3 or more")


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("data.source={name: shards, train: 'a.tar::https://user:SECRET@host/x.tar'}", "data.source.train"),
        ("data.source={name: table, path: 's3://SECRET@bucket/x.csv'}", "data.source.path"),
        ("model.image.weights=https://user:SECRET@host/x.safetensors", "model.image.weights"),
        ("data.source={name: table, path: 'ftp://user:SECRET@host/x.csv'}", "data.source.path"),
        ("data.source={name: shards, train: ['https://user:SECRET@host/x.tar']}", "data.source.train"),
    ],
)
def test_a_url_with_credentials_is_refused_without_showing_them(override: str, key: str) -> None:
    """The description is stored beside the report."""
    with pytest.raises(ConfigError) as caught:
        load_experiment("scenes", [override])
    assert f"{key}: the URL carries credentials: give them by environment, ~/.netrc, a profile or a role" in str(caught.value)
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("train", ["hf://datasets/me/set@main/a.tar", "az://box@account/a.tar", "https://host/a@b.tar"])
def test_a_name_with_an_at_sign_is_no_credential(train: str) -> None:
    overrides = [f"data.source={{name: shards, train: '{train}'}}", "model.image.weights=random"]
    assert load_experiment("scenes", overrides).data.source.train == train


def test_an_address_beside_a_url_is_no_credential() -> None:
    licence = "CC BY 4.0, see https://example.org (questions: data@example.org)"
    assert load_experiment("scenes", [f"data.licence={licence!r}"]).data.licence == licence


def test_a_run_on_the_cpu_reserves_no_gpus() -> None:
    reserved = ["device=cpu", *resource_overrides(1, None)]
    with pytest.raises(ConfigError, match=r"resources\.gpus \(1\): device: cpu computes without the GPUs that this reserves"):
        load_experiment("scenes", reserved)
    load_experiment("scenes", ["device=cpu", *resource_overrides(0, None)])


def test_nothing_to_learn_is_refused_unless_a_similarity_is_learned() -> None:
    fixed = ["distill.lr_images=0", "distill.lr_texts=0"]
    sentence = "distill.lr_images and distill.lr_texts are both 0, so that nothing of the pairs is learned: set one above 0, or"
    for loss in ("infonce", "{name: infonce, learn_temperature: true}", "{name: wbce, similarity: {lr: 0}}"):
        with pytest.raises(ConfigError, match=sentence):
            load_experiment("scenes", [*fixed, f"model.loss={loss}"])
    load_experiment("scenes", [*fixed, "model.loss=wbce"])


def test_numbers_that_every_reader_of_yaml_reads_alike_are_accepted(tmp_path: Path) -> None:
    assert strict_yaml.parse("[0, 00, -0, 0.5, 00.5, 0x10, '007', 1_000, a:b]") == [0, 0, 0, 0.5, 0.5, 16, "007", 1000, "a:b"]
    path = tmp_path / "experiment.yaml"
    path.write_text("name: a\nseed: 010\n")
    with pytest.raises(ConfigError, match=r"experiment\.yaml: cannot be read as YAML: 010 would be the octal number 8"):
        load_experiment(path)


@pytest.mark.parametrize("value", ['"a #b"', "'a #b'", "a#b", "|\n  a #b", "!!str a"])
def test_a_number_sign_within_a_value_is_no_comment(value: str) -> None:
    assert load_experiment("scenes", [f"data.licence={value}"]).data.licence in ("a #b", "a#b", "a")


def test_a_sentence_about_a_section_does_not_repeat_the_section() -> None:
    with pytest.raises(ConfigError, match=r"give at least two phases, .* the remaining pairs$"):
        load_experiment("scenes", ["distill.phases=[{pairs: 5}]"])


@pytest.mark.parametrize(
    ("study", "sentence"),
    [
        ({"vary": {"distill.pairs": [10, 20]}}, "vary: a value of distill.pairs is itself a list: write [[10], [20]]"),
        ({"vary": {"distill.pairs": [[10], 20]}}, "vary: a value of distill.pairs is itself a list: write [[10], [20]]"),
        (
            {"vary": {"distill.pairs": {"few": {"distill.pairs": 10}, "base": {}}}},
            "variant few: distill.pairs: expected a list: write [10]",
        ),
        (
            {"vary": {"distill.pairs": [[10], [20]]}, "variants": {"big": {"distill.pairs": 30}}},
            "variant big: distill.pairs: expected a list: write [30]",
        ),
    ],
)
def test_values_that_are_lists_are_written_as_lists(study: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({"name": "try", "base": "scenes", **study}))
    with pytest.raises(ConfigError) as caught:
        load_study(path)
    assert sentence in str(caught.value)


def test_a_path_a_folder_and_a_tab_are_answered_with_what_to_write(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"x{300}: cannot be read: File name too long: name a YAML file"):
        load_experiment(tmp_path / ("x" * 300))
    with pytest.raises(ConfigError, match=rf"{tmp_path}: is a folder: name a YAML file"):
        load_experiment(tmp_path)
    path = tmp_path / "experiment.yaml"
    path.write_text("name: a\ndata:\n\timage_size: 32\n")
    with pytest.raises(ConfigError, match=rf"{tmp_path}: is a folder: did you mean {path}\?"):
        load_experiment(tmp_path)
    with pytest.raises(ConfigError, match=r"cannot be read as YAML: line 3, column 1: a tab: indent with spaces$"):
        load_experiment(path)
