"""The documentation site: its reference pages are complete, its links have targets, and the commands that it names exist."""

import ast
import json
import logging
import re
import shlex
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import pytest
import torch
import typer
import yaml
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from docs_site import results
from docs_site.commands import commands_page
from docs_site.links import translate_all
from docs_site.plugins import KEYS, plugins_page
from docs_site.settings import settings_page
from tests.distilled_sets import distilled_set
from tests.studies import load_study
from vldd_dist.cli.main import EXIT_CODES, app
from vldd_dist.config.base import Plugin, Section, choose
from vldd_dist.config.experiment import Experiment
from vldd_dist.config.loading.descriptions import load_description
from vldd_dist.config.loading.load import load_experiment
from vldd_dist.config.sections.model import TextTowerSettings
from vldd_dist.data.sources.base import Source
from vldd_dist.data.sources.sample import RawSample
from vldd_dist.distilled_set.publishing.write import save
from vldd_dist.models.text.encoder import FrozenTextEncoder
from vldd_dist.pipeline.stage import milestones
from vldd_dist.plugins import LOSSES, REGISTRIES, SOURCES, STAGES
from vldd_dist.ray_backend import run
from vldd_dist.store.store import Store

ROOT = Path(__file__).parents[1]
RESULTS = sorted((ROOT / "benchmarks/results").glob("*.md"))
PAGES = [*sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]), *RESULTS]
PRESETS = sorted((ROOT / "jobs/presets").glob("*.yaml"))
# At the start of a line, with or without a prompt.
COMMAND = re.compile(r"^(?: {4})?(?:\$ )?vldd ((?:[^\n#]|(?<=\S)#)*?)(?:\\\n\s*([^\n#]*))?(?:\s#|$)", re.MULTILINE)
# Anywhere: a module and the rest of its line.
MODULE = re.compile(r"python -m ((?:benchmarks|docs_site)\.\w+)([^\n`]*)")
# Blocks of YAML that are no descriptions, or that another test loads: (page, first key).
OTHER_BLOCKS = {("cluster.md", "envFrom"), ("extending.md", "variants")}


def keys_of(value: object, path: str = "") -> set[str]:
    """The dotted keys of a description. A plug-in counts as one key, because its settings are listed elsewhere."""
    if not isinstance(value, Section) or isinstance(value, Plugin):
        return {path}
    return {key for name in type(value).model_fields for key in keys_of(getattr(value, name), f"{path}.{name}".strip("."))}


def test_the_reference_has_every_setting_with_a_description() -> None:
    page = settings_page()
    rows = [row.strip("| ").split(" | ") for row in page.splitlines() if row.startswith("| `")]
    assert [row[0] for row in rows if len(row) != 4 or len(row[3]) < 8] == []
    tables = dict(re.findall(r"^##+ ([\w.]+)\n(.*?)(?=^#|\Z)", page, re.MULTILINE | re.DOTALL))
    for key in keys_of(load_experiment("jobs/presets/scenes.yaml", [])):
        section, _, name = key.rpartition(".")
        if section.endswith("resources"):
            section = "resources"
        assert f"| `{name}` |" in (tables[section] if section else page), key


@pytest.mark.parametrize(
    "sentence",
    [
        "with adam of the order of 0.01 to 0.1, with sgd hundreds",
        "Momentum of sgd; no effect with adam.",
        "the adjoint (the gradient that is propagated back through the inner steps) are sharded in any case",
        "`resources` is also for `expert features`",
        "and for `image weights` (the starting weights of an image tower), unless model.image.weights is attributes",
        "`resources` is also for `feature groups`",
        "and when the features of a frozen backbone are computed",
        "It does not follow `model`",
        "With a frozen backbone, experts encode augmented images in every epoch",
    ],
)
def test_the_reference_says_what_a_setting_also_does(sentence: str) -> None:
    assert sentence in " ".join(settings_page().split())


def test_no_value_is_called_as_in_python() -> None:
    assert re.findall(r"\bNone\b.*", settings_page() + plugins_page()) == []


def test_the_help_of_until_names_every_value() -> None:
    (until,) = (option for option in typer.main.get_command(app).commands["run"].params if option.name == "until")
    assert f"Stop after this stage: {', '.join(milestones()[:-1])} or {milestones()[-1]}." in (until.help or "")


def test_the_exit_codes_are_at_the_end_of_the_help_and_on_the_page_of_commands() -> None:
    said = CliRunner().invoke(app, ["--help"])
    assert said.exit_code == 0
    assert " ".join(said.output.split()).endswith(EXIT_CODES)
    assert commands_page().count(EXIT_CODES) == 1


def test_the_reference_has_every_plugin() -> None:
    assert {registry.kind for registry in REGISTRIES} - {registry.kind for registry in KEYS} == {STAGES.kind}
    page = plugins_page()
    for registry in KEYS:
        (part,) = re.findall(rf"^## {registry.group.rpartition('.')[2].capitalize()}\n(.*?)(?=^## |\Z)", page, re.M | re.DOTALL)
        # Each has a description.
        assert set(re.findall(r"^### (\w+)\n\n\S", part, re.MULTILINE)) == set(registry.entries)


def test_troubleshooting_names_every_variable_and_only_messages_that_exist() -> None:
    page = (ROOT / "docs/troubleshooting.md").read_text()
    files = [path for path in (ROOT / "vldd_dist").rglob("*.py") if "testing" not in path.parts]
    sources = "\n".join(path.read_text() for path in files)
    variables = set(re.findall(r"\bVLDD_[A-Z_]+", sources))
    assert variables <= set(re.findall(r"^\| `(VLDD_\w+)`", page, re.MULTILINE))
    messages = re.findall(r"^\| `([^`]+)`", page.partition("## Frequent messages")[2], re.MULTILINE)
    assert len(messages) > 8
    assert [message for message in messages if message not in sources] == []


def text_of(path: Path) -> str:
    """A page, or a preset whose comments have lost their marks, so that an indented command is at the start of its line."""
    return re.sub(r"^# {3}", "", path.read_text(), flags=re.MULTILINE) if path in PRESETS else path.read_text()


@pytest.mark.parametrize("path", [*PAGES, *PRESETS], ids=lambda path: path.stem)
def test_the_commands_exist(path: Path) -> None:
    commands = typer.main.get_command(app).commands
    for found in COMMAND.findall(text_of(path)):
        name, *words = shlex.split(" ".join(found))
        assert name in commands or name in ("--help", "--version"), found
        known = {option for parameter in commands[name].params for option in parameter.opts} if name in commands else set()
        used = {word.partition("=")[0] for word in words if word.startswith("--") and word.partition("=")[0] != "--help"}
        assert used <= known, found


def options_of(module: str) -> set[str]:
    """The options that a module with a command line declares, from its source."""
    path = ROOT / module.replace(".", "/")
    tree = ast.parse((path.with_suffix(".py") if path.with_suffix(".py").exists() else path / "__main__.py").read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    declared = [call.args[0] for call in calls if call.func.attr == "add_argument"]  # type: ignore[attr-defined]
    return {argument.value for argument in declared if isinstance(argument, ast.Constant)}


@pytest.mark.parametrize("path", [*PAGES, *PRESETS], ids=lambda path: path.stem)
def test_the_benchmarks_and_their_options_exist(path: Path) -> None:
    for module, words in MODULE.findall(text_of(path)):
        assert set(re.findall(r"--[\w-]+", words)) <= options_of(module), f"python -m {module}{words}"


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_the_commands_in_a_preset_run_it_with_settings_that_it_takes(path: Path) -> None:
    text = text_of(path)
    commands = [shlex.split(words)[:2] for words, _ in COMMAND.findall(text)]
    assert [command for command in commands if command != ["run", path.stem]] == []
    assert commands or "base" not in yaml.safe_load(path.read_text()), "a study says how it is run"
    overrides = [shlex.split(value)[0] for value in re.findall(r"--set ('[^']*'|\S+)", text)]
    load_description(path, overrides)


def test_each_page_of_results_has_a_command() -> None:
    pages = {path.name: path.read_text() for path in RESULTS}
    assert [name for name, page in pages.items() if not (results.COMMAND.search(page) or "\n    make " in page)] == []


def blocks_of_yaml() -> list[tuple[str, str]]:
    """(page, text) of each block that is a description, or a part of one."""
    found = [
        (path.name, text) for path in PAGES for text in re.findall(r"^```yaml\n(.*?)^```", path.read_text(), re.M | re.DOTALL)
    ]
    return [(page, text) for page, text in found if (page, text.partition(":")[0]) not in OTHER_BLOCKS]


def with_changes(tree: Any, changes: Any) -> Any:
    """A description with the values of a part of one; a plug-in is replaced."""
    if not isinstance(tree, dict) or not isinstance(changes, dict) or "name" in changes:
        return changes
    return tree | {key: with_changes(tree.get(key), value) for key, value in changes.items()}


@pytest.mark.parametrize(("page", "text"), blocks_of_yaml(), ids=lambda value: value.partition("\n")[0])
def test_the_yaml_loads(page: str, text: str, tmp_path: Path) -> None:
    changes, file = yaml.safe_load(text), tmp_path / "example.yaml"
    if "base" in changes:
        file.write_text(text)
        (combinations,) = re.findall(r"# every combination is a variant: (.*)", text)
        assert set(load_study(file).experiments) == {*combinations.split(", "), *changes["variants"]}
    else:
        preset = yaml.safe_load((ROOT / "jobs/presets/flickr8k-cpu.yaml").read_text())
        file.write_text(yaml.safe_dump(with_changes(preset, changes)))
        load_experiment(file)


@pytest.mark.parametrize(
    ("page", "words"),
    [
        ("concepts.md", ["*similarity*", "*backbone*", "*head*", "*features*", "*backbone is frozen*", "*in feature space*"]),
        ("concepts.md", ["*recipe*", "*checkpoint*", "*group*"]),
        ("methods.md", ["`vldd run` makes images"]),
        ("hyperparameters.md", ["`resume_from`"]),
    ],
)
def test_the_page_explains(page: str, words: list[str]) -> None:
    text = " ".join((ROOT / "docs" / page).read_text().split())
    assert [word for word in words if word not in text] == []


def test_what_is_said_of_published_scripts_names_their_files_at_a_commit() -> None:
    """Each row of README's table has one on the page that it links, whose links are all to a file at a commit."""
    _, _, readme = (ROOT / "README.md").read_text().partition("\n## Compared with the published scripts\n")
    page = (ROOT / "docs/comparison.md").read_text()
    claimed = re.findall(r"^\| (\w[^|]*) \| ", readme.partition("\n## ")[0], re.MULTILINE)
    rows = re.findall(r"^\| (\w[^|]*) \| [^|]+ \| ([^|]+) \|$", page.partition("| where |")[2], re.MULTILINE)
    assert [name for name, _ in rows] == claimed
    assert [name for name, place in rows if "][" not in place and "the four scripts of the first row" not in place] == []
    targets = dict(re.findall(r"^\[([\w-]+)\]: (\S+)$", page, re.MULTILINE))
    assert targets.keys() == set(re.findall(r"\]\[([\w-]+)\]", page))
    assert [
        url for url in targets.values() if not re.fullmatch(r"https://github\.com/[^/]+/[^/]+/blob/[0-9a-f]{40}/.+", url)
    ] == []


def test_the_bibtex_entry_is_the_preferred_citation() -> None:
    (entry,) = re.findall(r"^```bibtex\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())["preferred-citation"]
    authors = " and ".join(f"{author['family-names']}, {author['given-names']}" for author in cited["authors"])
    values = [cited["title"], authors, cited["journal"], cited["year"], cited["url"]]
    assert re.findall(r"= \{(.*)\}", entry) == [str(value) for value in values]


def test_the_example_of_lors_has_the_settings_that_were_measured() -> None:
    page = (ROOT / "docs/methods.md").read_text()
    (example,) = re.findall(r"^`model\.loss: (\{name: wbce.*?\}\})`", page, re.MULTILINE)
    loss = load_study("methods-flickr8k").experiments["lors"].model.loss
    assert choose(LOSSES, yaml.safe_load(example)) == loss
    for kind in ("low_rank", "full"):
        assert choose(LOSSES, {"name": "wbce", "similarity": kind}).similarity.lr == loss.similarity.lr


def test_a_link_of_the_repository_is_one_of_the_site(caplog: pytest.LogCaptureFixture) -> None:
    text = "[a](../../benchmarks/results/store.md#x), [b](../scaling.md), [code](../../vldd_dist/plugins.py), `[c](gone.md)`"
    with caplog.at_level(logging.WARNING):
        assert (
            translate_all(text, "tutorials/cluster.md")
            == "[a](../results/store.md#x), [b](../scaling.md), code, `[c](gone.md)`"
        )
        assert caplog.messages == []
        translate_all("[d](../../gone.py)", "tutorials/cluster.md")
    assert caplog.messages == ["docs/tutorials/cluster.md has a link to ../../gone.py, which does not exist"]


def test_the_tutorial_trains_on_a_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    encoder = FrozenTextEncoder(TextTowerSettings(model="tiny-clip", pooling="projected"), torch.device("cpu"))
    shown = distilled_set()
    shown.rows["texts"] = encoder.encode(["a red star", "two circles", "blue", "a large ring on grey", "cross"], 2)
    shown.recipe = shown.recipe.model_copy(update={"text_encoder": encoder.identity, "learning_rate": 0.001})
    save(shown, "my-set")
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/tutorials/use-a-set.md").read_text(), re.DOTALL)
    made: dict[str, Any] = {}
    for code in blocks:
        exec(code, made)
    assert made["losses"][0] > made["losses"][-1] > 0
    assert made["scores"].shape == (3, 2)


def test_the_example_of_a_run_from_python_loads_its_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Ray: the run is replaced by a function of the same signature, which publishes a set."""

    def publish(described: Experiment, store: Store, console: Console) -> int:
        assert described.distill.pairs == [10]
        save(distilled_set(), store.url_of(f"distilled/{described.name}-10pairs-seed0-0123abcd"))
        return 0

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "run_description", create_autospec(run.run_description, side_effect=publish))
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/reference/api.md").read_text(), re.DOTALL)
    made: dict[str, Any] = {}
    exec(code, made)
    assert made["exit_code"] == 0
    assert [len(one) for one in made["sets"]] == [len(distilled_set())]


def test_the_list_of_presets_has_each_and_says_what_it_is() -> None:
    table = (ROOT / "docs/studies.md").read_text().partition("## Presets")[2]
    rows = [row.split(" | ") for row in re.findall(r"^\| (`.*) \|$", table, re.MULTILINE)]
    kinds = {name: kind for names, kind, *_ in rows for name in re.findall(r"`([^`]+)`", names)}
    files = {path.stem: yaml.safe_load(path.read_text()) for path in PRESETS}
    assert kinds == {name: "study" if "base" in tree else "experiment" for name, tree in files.items()}


def test_the_script_for_karpathy_files_writes_tars_with_the_same_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "images" / "train2014").mkdir(parents=True)
    entries = []
    for number, split in enumerate(["train", "restval", "val", "test", "train"]):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "images" / "train2014" / f"{number}.png")
        sentences = [{"raw": f"caption {number} {caption}"} for caption in range(2)]
        entries.append({"filepath": "train2014", "filename": f"{number}.png", "split": split, "sentences": sentences})
    (tmp_path / "dataset.json").write_text(json.dumps({"images": entries}))
    (code,) = re.findall(r"```python\n(import io.*?)```", (ROOT / "docs/own-data.md").read_text(), re.DOTALL)
    monkeypatch.setattr("sys.argv", ["script", *(str(tmp_path / name) for name in ("dataset.json", "images", "tars"))])
    exec(code, {})
    tars = {split: f"{tmp_path}/tars/{split}-*.tar" for split in ("train", "val", "test")}
    shards = choose(SOURCES, {"name": "shards", **tars})
    karpathy = choose(SOURCES, {"name": "karpathy", "annotations": f"{tmp_path}/dataset.json", "images": f"{tmp_path}/images"})
    for split, images in {"train": 3, "val": 1, "test": 1}.items():
        found, expected = (pairs_of(source, split) for source in (shards, karpathy))
        assert len(found) == images
        assert found == expected


def pairs_of(source: Source, split: str) -> list[tuple[Any, list[str]]]:
    """Encoded image and captions of all samples, in order."""
    samples = [
        sample
        for part in source.parts(split, limit=None, part_samples=1000)
        for sample in source.samples(split, part, image_size=8, seed=0)
    ]
    return [(sample.image, list(sample.captions)) for sample in samples if isinstance(sample, RawSample)]
