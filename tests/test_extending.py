"""docs/extending.md: each plug-in is written to a file and registered by one line, and the experiment runs with it."""

import importlib
import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from rich.console import Console

from tests.extending_page import EXAMPLES, PAGE
from tests.studies import load_study
from vldd_dist import load_distilled, plugins
from vldd_dist.artifacts.facts import Facts
from vldd_dist.artifacts.unit_writer import UnitWriter
from vldd_dist.artifacts.units import UnitReader
from vldd_dist.config.experiment import Experiment
from vldd_dist.config.loading.load import load_experiment
from vldd_dist.data.prepared.dataset import Dataset
from vldd_dist.distillation.initialisations.base import Start
from vldd_dist.errors import ConfigError, StoreError
from vldd_dist.monitoring.live.run_state import RunState
from vldd_dist.monitoring.reports.report import Reporter
from vldd_dist.monitoring.reports.report_files import read_tables
from vldd_dist.pipeline.context import read_rows
from vldd_dist.pipeline.execute import execute
from vldd_dist.pipeline.graphs.experiment import Graph
from vldd_dist.pipeline.schemas import schemas
from vldd_dist.pipeline.stage import stage_of
from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.planner.document import plan_document
from vldd_dist.planner.plan import plan
from vldd_dist.planner.show_plan import print_plan
from vldd_dist.plugins import Registry
from vldd_dist.reporting.tables.recall_table import recall_table, summary
from vldd_dist.reporting.tables.renderers.markdown import markdown
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny import TINY

TINIEST = [
    *TINY,
    "data.train_images=24",
    "experts.count=1",
    "experts.epochs=2",
    "distill.outer_steps=2",
    "coresets.methods=[random]",
]

# An image tower whose features are computed once.
FROZEN = [
    "model.image.train=head",
    "model.image.head.kind=linear",
    "model.joint_dim=8",
    "model.image.weights=attributes",
    "pretrain.images=64",
    "pretrain.epochs=1",
]


@pytest.fixture
def enter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """Write an example's file and register it; returns the overrides of the description that use it."""
    monkeypatch.syspath_prepend(str(tmp_path))
    written = []

    def make(name: str, change: tuple[str, str] = ("", "")) -> list[str]:
        file, registry, target, text, code = EXAMPLES[name]
        assert change[0] in code
        (tmp_path / f"{file}.py").write_text(code.replace(*change))
        sys.modules.pop(file, None)
        importlib.invalidate_caches()
        monkeypatch.setitem(getattr(plugins, registry).entries, name, target)
        written.append(file)
        return re.findall(r"`([\w.]+=[^`]+)`", text)

    yield make
    for file in written:
        sys.modules.pop(file, None)
    stage_of.cache_clear()


def run(tmp_path: Path, *overrides: str) -> tuple[Experiment, Graph, Store]:
    """Run the whole experiment, one unit after the other."""
    # Another objective does not have the settings by which the default one is made small.
    replaced = any(override.startswith("distill.objective=") for override in overrides)
    tiny = [override for override in TINIEST if not (replaced and override.startswith("distill.objective."))]
    experiment = load_experiment("jobs/presets/scenes.yaml", [*tiny, *overrides])
    graph, store = Graph(experiment), Store(str(tmp_path / "store"))
    for unit in graph.units():
        execute(unit.order(), store, lambda report: None)
    return experiment, graph, store


def tiny_unit(kind: str, *overrides: str) -> WorkUnit:
    """The only unit, or the first one, of this kind."""
    return next(
        unit for unit in Graph(load_experiment("jobs/presets/scenes.yaml", [*TINIEST, *overrides])).units() if unit.kind == kind
    )


def facts(graph: Graph, store: Store, kind: str) -> dict:
    (unit,) = (unit for unit in graph.units() if unit.kind == kind)
    return UnitReader(store, kind, unit.id).manifest.facts


def test_the_page_has_an_example_of_every_kind() -> None:
    kinds = {name for name, value in vars(plugins).items() if isinstance(value, Registry)}
    assert {registry for _, registry, *_ in EXAMPLES.values()} == kinds


def test_a_coreset(enter, tmp_path: Path) -> None:
    (override,) = enter("every_nth")
    _, graph, store = run(tmp_path, override)
    assert facts(graph, store, "coreset")["keys"] == [f"{3 + 6 * number:06d}" for number in range(4)]
    data = Reporter(graph, store).collect()
    assert [row["method"] for row in summary(data)["rows"]] == ["full", "every_nth offset=3", "distilled"]
    assert "every-nth offset=3" in markdown(recall_table(data))
    with pytest.raises(ConfigError, match=r"coresets.methods.0.offset: Input should be greater than or equal to 0"):
        load_experiment("jobs/presets/scenes.yaml", ["coresets.methods=[{name: every_nth, offset: -1}]"])
    with pytest.raises(ConfigError, match=r"there is no coreset 'every_nht': choose one of .*; did you mean 'every_nth'"):
        load_experiment("jobs/presets/scenes.yaml", ["coresets.methods=[every_nht]"])


def test_a_raised_revision_makes_other_units_with_the_same_label(enter) -> None:
    """The code itself is not part of their identity."""
    (override,) = enter("every_nth")
    first, again = (tiny_unit("coreset", override) for _ in range(2))
    assert first.id == again.id
    enter("every_nth", ("revision: int = 1", "revision: int = 20"))
    raised = tiny_unit("coreset", override)
    assert (raised.label, raised.id == first.id) == (first.label, False)


def test_a_source(enter, tmp_path: Path) -> None:
    (override,) = enter("squares")
    _, graph, store = run(tmp_path, override)
    found = facts(graph, store, "dataset")
    assert found["source"] == "squares"
    assert found["splits"]["train"]["images"] == 24
    other = Graph(load_experiment("jobs/presets/scenes.yaml", [*TINIEST, override.replace("12", "11")]))
    assert other.unit("dataset").id != graph.unit("dataset").id, "a setting is part of the identity"


def test_a_loss_with_rows_of_its_own(enter, tmp_path: Path) -> None:
    (override,) = enter("sigmoid")
    _, graph, store = run(tmp_path, override, "distill.lr_images=0.1")
    folder = facts(graph, store, "publication")["folder"]
    distilled = load_distilled(store.url_of(folder))
    assert distilled.recipe.loss["name"] == "sigmoid"
    assert "| loss | sigmoid, " in store.read(f"{folder}/README.md").decode()
    item = distilled.as_dataset()[0]
    assert set(item) >= {"images", "texts", "log_weight"}


def test_experts_are_the_same_for_every_setting_that_only_a_distillation_uses(enter) -> None:
    (override,) = enter("sigmoid")
    slow, fast = ([override, f"model.loss.lr_weights={rate}"] for rate in (0.01, 0.1))
    assert tiny_unit("expert", *slow).id == tiny_unit("expert", *fast).id
    assert tiny_unit("distillation", *slow).id != tiny_unit("distillation", *fast).id


def test_an_initialisation_leaves_the_images_of_earlier_phases(enter, monkeypatch: pytest.MonkeyPatch) -> None:
    enter("pale")
    pale = plugins.INITIALISATIONS.load("pale")
    chosen: list[int] = []

    def start_from_real(context: object, indices: list[int], numbers: None) -> Start:
        chosen.extend(indices)
        return Start(torch.zeros(3), torch.zeros(3), {})

    monkeypatch.setattr(sys.modules["pale"], "start_from_real", start_from_real)
    dataset = SimpleNamespace(splits={"train": SimpleNamespace(images=9)})
    pale().start(SimpleNamespace(dataset=dataset, total=3, taken=frozenset({0, 2})))
    assert chosen == [1, 3, 4]


def test_an_initialisation(enter, tmp_path: Path) -> None:
    (override,) = enter("pale")
    experiment, graph, store = run(tmp_path, override)
    found = facts(graph, store, "distillation")["start"]
    assert found["initialise"] == "pale"
    assert found["keys"] == [f"{number:06d}" for number in range(4)]
    (unit,) = (unit for unit in graph.units() if unit.kind == "distillation")
    start = read_rows(UnitReader(store, unit.kind, unit.id), "start")["images"]
    whole = Dataset(UnitReader(store, "dataset", graph.unit("dataset").id)).pick("train", list(range(4))).images
    image = experiment.model.image
    pixels = (start * 2) * torch.tensor(image.std)[:, None, None] + torch.tensor(image.mean)[:, None, None]
    torch.testing.assert_close(pixels * 255, whole.float(), atol=0.1, rtol=0)


def test_an_objective_without_experts(enter, tmp_path: Path) -> None:
    objective, texts_only = enter("mean_matching")
    _, graph, store = run(tmp_path, objective, texts_only, "distill.initialise=noise")
    (unit,) = (unit for unit in graph.units() if unit.kind == "distillation")
    assert not any(role.startswith("expert") for role in unit.inputs)
    assert Reporter(graph, store).collect().distillations, "its curves are in the report"
    assert "images were not learned" in store.read(f"{facts(graph, store, 'publication')['folder']}/README.md").decode()


def test_an_objective_that_compares_features(enter, tmp_path: Path) -> None:
    (override,) = enter("gradient_matching")
    _, graph, store = run(tmp_path, override)
    (curve,) = Reporter(graph, store).collect().distillations
    assert curve.terms == {"cosine": curve.loss}
    assert all(0 < value < 2 for value in curve.loss)


def test_trajectory_matching_with_another_distance(enter, tmp_path: Path) -> None:
    (override,) = enter("cosine_trajectory")
    _, graph, store = run(tmp_path, override, "distill.objective.inner_steps=2", "distill.objective.max_start_epoch=1")
    (curve,) = Reporter(graph, store).collect().distillations
    assert list(curve.terms) == ["image", "text"]
    assert all(0 < value < 2 for values in curve.terms.values() for value in values)


def test_a_gradient(enter, tmp_path: Path) -> None:
    (override,) = enter("forward_only")
    tolerance = "distill.objective.check_tolerance=0.2"
    _, graph, store = run(tmp_path, override, tolerance)
    found = facts(graph, store, "distillation")
    assert [step for step, _ in found["validation"]] == [0, 2]
    recalls = dict(found["validation"])
    # Of equal recalls, that of learned pairs is the best.
    assert found["best_step"] == (2 if recalls[2] >= recalls[0] > 0 or recalls[2] > recalls[0] else 0)
    with pytest.raises(ConfigError, match="there is no gradient 'backward_only'"):
        load_experiment("jobs/presets/scenes.yaml", ["distill.objective.gradient=backward_only"])


def test_a_metric(enter, tmp_path: Path) -> None:
    (override,) = enter("mean_cosine")
    _, graph, store = run(tmp_path, override)
    data = Reporter(graph, store).collect()
    assert all(-1 <= row["metrics"]["mean_cosine"]["mean"] <= 1 for row in summary(data)["rows"])
    assert "| mean cosine |" in markdown(recall_table(data))


def test_an_application(enter, tmp_path: Path) -> None:
    (override,) = enter("shuffled")
    with pytest.raises(ConfigError, match=r"applications.run: students are trained on features of a frozen image backbone"):
        load_experiment("jobs/presets/scenes.yaml", [*TINIEST, override])
    _, graph, store = run(tmp_path, override, *FROZEN)
    planned = plan_document(plan(graph.experiment, None))
    (work,) = (one for one in planned["work"] if one["kind"] == "application")
    assert (work["unknown_units"], work["pflop"] > 0) == (0, True)
    found = facts(graph, store, "application")
    assert [row["method"] for row in found["results"]] == ["distilled", "texts moved"]
    assert "| texts moved |" in markdown(Reporter(graph, store).write()[-1])
    assert read_tables(store, "scenes").keys() == {"recall", "shuffled"}
    assert "texts moved to other images" in store.read("report/scenes/index.html").decode()


def test_a_stage_is_planned_run_shown_and_in_the_schemas(enter, tmp_path: Path) -> None:
    enter("caption_lengths")
    experiment, graph, store = run(tmp_path)
    assert facts(graph, store, "caption_lengths")["longest"] > 10
    console = Console(file=io.StringIO(), width=200)
    print_plan(plan(experiment, Store(str(tmp_path / "empty"))), console)
    assert re.search(r"caption lengths\W+1\W+0\W+1\W", console.file.getvalue())
    assert "longest" in str(schemas()["caption_lengths.schema.json"])
    state = RunState([])
    state.begin(graph.units(), set())
    assert state.total["caption_lengths"] == 1
    writer = UnitWriter(store, "caption_lengths", "another", {}, {})
    with pytest.raises(StoreError, match="facts: longest: Field required"):
        writer.commit(Facts())


def test_a_run_until_a_milestone_of_ones_own_ends_with_its_stage(enter) -> None:
    enter("caption_lengths", ("    priority=9,\n", '    priority=9,\n    milestone="lengths",\n'))
    graph = Graph(load_experiment("jobs/presets/scenes.yaml", TINIEST))
    kinds = {unit.kind for unit in graph.units("lengths")}
    assert kinds == {"caption_lengths", "dataset", "shard_group"}


def test_an_installed_package_enters_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    class Point:
        name, value = "installed", "vldd_dist.coresets.random:RandomPairs"

    groups = []
    monkeypatch.setattr(plugins, "entry_points", lambda group: groups.append(group) or [Point])
    registry = Registry("coreset", "vldd_dist.coresets.base:Coreset", {})
    assert registry.load("installed").__name__ == "RandomPairs"
    assert "installed" in registry
    assert list(registry) == ["installed"]
    assert groups == ["vldd_dist.coresets"]
    assert re.search(r"`vldd_dist.stages`, `.sources`, `.coresets`, `.initialisations`, `.losses`", PAGE)
    assert plugins.LOSSES.group == "vldd_dist.losses"


def test_a_method_of_ones_own_stands_beside_the_published_ones(enter, tmp_path: Path) -> None:
    enter("mean_matching")
    (added,) = re.findall(r"```yaml\n(variants:.*?)```", PAGE, re.DOTALL)
    study = yaml.safe_load(Path("jobs/presets/methods-flickr8k.yaml").read_text())
    mine = yaml.safe_load(added)
    study["variants"] |= mine["variants"]
    study["tables"]["methods"] |= mine["tables"]["methods"]
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(study))
    loaded = load_study(tmp_path / "mine.yaml", [])
    assert loaded.experiments["mine"].distill.objective.name == "mean_matching"
    assert set(mine["tables"]["methods"]["variants"]) <= loaded.experiments.keys()


def test_a_registered_plugin_without_its_module_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(plugins.CORESETS.entries, "every_nth", "every_nth_gone:EveryNth")
    sentence = (
        r"the coreset 'every_nth' is registered as every_nth_gone:EveryNth, but there is no module every_nth_gone: install it"
    )
    with pytest.raises(ConfigError, match=sentence):
        load_experiment("jobs/presets/scenes.yaml", ["coresets.methods=[every_nth]"])
