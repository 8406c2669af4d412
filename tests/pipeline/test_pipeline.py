"""The whole graph in one process, unit after unit: results, resume to the same bits, damage, the report."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from vldd_dist import load_distilled
from vldd_dist.artifacts.unit_writer import UnitWriter
from vldd_dist.artifacts.units import UnitReader, is_done
from vldd_dist.config.base import choose
from vldd_dist.config.experiment import Experiment
from vldd_dist.config.load import load_experiment
from vldd_dist.coresets.candidates import Candidates
from vldd_dist.data.embeddings import CaptionEmbeddings
from vldd_dist.distillation.initialisations import starting_pairs
from vldd_dist.distillation.unroll import EpsilonChoice
from vldd_dist.distillation.unrolling import LocalUnrolling
from vldd_dist.errors import ConfigError, InterruptedRun, StoreError, VlddError
from vldd_dist.events import Notice, Progress, Report, UnitReport
from vldd_dist.monitoring.report import Reporter
from vldd_dist.pipeline.context import StageContext, read_rows, read_tensors
from vldd_dist.pipeline.execute import execute
from vldd_dist.pipeline.graph import make_graph
from vldd_dist.pipeline.inputs import load_expert
from vldd_dist.pipeline.stages.distillation import run_context
from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.plugins import CORESETS
from vldd_dist.retrieval.encode import encode_texts
from vldd_dist.seeding import numpy_generator
from vldd_dist.store.store import Store
from vldd_dist.testing.tiny import TINY


def experiment(*overrides: str) -> Experiment:
    return load_experiment("jobs/presets/scenes.yaml", [*TINY, *overrides])


def run(store: Store, units: list[WorkUnit], report: Report = lambda event: None) -> None:
    for unit in units:
        if not is_done(store, unit.kind, unit.id):
            execute(unit.order(), store, report)


def digests(store: Store, unit: WorkUnit) -> dict[str, str]:
    return {name: info.sha256 for name, info in UnitReader(store, unit.kind, unit.id).manifest.objects.items()}


def units_of(tree: Experiment, kind: str) -> list[WorkUnit]:
    return [unit for unit in make_graph(tree).units() if unit.kind == kind]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The tiny experiment, undisturbed."""
    store = Store(str(tmp_path_factory.mktemp("finished")))
    run(store, make_graph(experiment()).units())
    return store


@pytest.fixture
def without(finished: Store, tmp_path: Path) -> Callable[[str], Store]:
    """A copy of the finished store from which all units of a kind, and what needs them, are gone."""

    def make(kind: str) -> Store:
        copy = tmp_path / f"without-{kind}"
        shutil.copytree(finished.root, copy)
        users = {"expert": ["expert", "features", "coreset", "distillation", "evaluation", "publication"]}
        for gone in users.get(kind, [kind, "evaluation", "publication"]):
            shutil.rmtree(copy / "units" / gone, ignore_errors=True)
        return Store(str(copy))

    return make


def test_everything_is_made_and_a_second_plan_finds_it(finished: Store) -> None:
    units = make_graph(experiment()).units()
    assert all(is_done(finished, unit.kind, unit.id) for unit in units)
    assert {unit.kind for unit in units} == {
        "dataset",
        "caption_embeddings",
        "expert",
        "features",
        "coreset",
        "distillation",
        "evaluation",
        "publication",
    }


def test_what_does_not_shape_the_output_does_not_change_the_question() -> None:
    ids = {unit.id for unit in make_graph(experiment()).units()}
    same = experiment("experts.readers=1", "experts.cache_mib=0", "distill.checkpoint_every=5", "device=cpu")
    assert {unit.id for unit in make_graph(same).units()} == ids
    more_experts = {unit.id for unit in units_of(experiment("experts.count=3"), "expert")}
    assert more_experts > {unit.id for unit in units_of(experiment(), "expert")}
    other = {unit.id for unit in units_of(experiment("experts.lr_image=0.5"), "expert")}
    assert other.isdisjoint(ids)


def test_the_published_set_stands_on_its_own(finished: Store, tmp_path: Path) -> None:
    (unit,) = units_of(experiment(), "publication")
    facts = UnitReader(finished, unit.kind, unit.id).facts
    moved = tmp_path / "moved"
    shutil.copytree(Path(finished.root) / facts["folder"], moved)
    distilled = load_distilled(str(moved))
    assert distilled.digest == facts["digest"]
    assert distilled.images.shape == (4, 3, 32, 32)
    assert distilled.texts.shape == (4, 384)
    assert set(distilled.learned) == {"inner_lr_image", "inner_lr_text"}
    assert min(distilled.learned.values()) > 0
    rates = distilled.shared["log_rates"].exp().tolist()
    assert list(distilled.learned.values()) == rates
    assert len(distilled.captions) == 4
    assert distilled.start_images is not None
    assert distilled.pixels().shape == distilled.start_images.shape
    batch = next(iter(torch.utils.data.DataLoader(distilled.as_dataset(), batch_size=4)))
    assert torch.equal(batch["images"], distilled.images)
    card = (moved / "README.md").read_text()
    assert card.startswith("---\nlicense: other\nlicense_name: CC0-1.0")
    assert "| distilled |" in card
    assert "| random |" in card
    assert distilled.digest in card
    assert (moved / "preview.png").read_bytes().startswith(b"\x89PNG")
    data = bytearray((moved / "pairs.safetensors").read_bytes())
    data[-1] ^= 1
    (moved / "pairs.safetensors").write_bytes(data)
    with pytest.raises(StoreError, match=r"pairs\.safetensors: its sha256 differs"):
        load_distilled(str(moved))


@pytest.mark.parametrize("steps", [0, 1, 3, 4])
def test_a_distillation_that_is_asked_to_stop_stores_where_it_is(
    steps: int, finished: Store, without: Callable[[str], Store]
) -> None:
    store, (unit,) = without("distillation"), units_of(experiment(), "distillation")
    done: list[int] = []

    def report(event: UnitReport) -> None:
        assert isinstance(event, Progress)
        done.append(event.done)

    with pytest.raises(InterruptedRun, match=f"stopped after {steps} outer steps"):
        execute(unit.order(), store, report, should_stop=lambda: len(done) == steps)
    assert not is_done(store, unit.kind, unit.id)
    run(store, [unit], report)
    assert done == [1, 2, 3, 4, 5, 6]
    assert digests(store, unit) == digests(finished, unit)


class Killed(BaseException):
    """A process's death, as far as code inside the process can tell."""


@pytest.mark.parametrize("kind", ["expert", "distillation"])
def test_killed_anywhere_it_ends_in_the_same_bits(
    kind: str, finished: Store, without: Callable[[str], Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Die after a few store operations, go on, die again, until the unit is done."""
    store, unit = without(kind), units_of(experiment(), kind)[-1]
    originals = {name: getattr(Store, name) for name in ("write", "create", "delete")}
    left = [0]

    def mortal(name: str) -> Callable[..., Any]:
        def operation(self: Store, *arguments: Any) -> Any:
            result = originals[name](self, *arguments)
            left[0] -= 1
            if left[0] == 0:
                raise Killed
            return result

        return operation

    for name in originals:
        monkeypatch.setattr(Store, name, mortal(name))
    deaths, patience = 0, 3
    while not is_done(store, unit.kind, unit.id):
        left[0] = patience
        try:
            execute(unit.order(), store, lambda event: None)
        except Killed:
            deaths += 1
            # A whole checkpoint takes several operations: give each attempt a little longer than the last.
            patience += 1
    assert deaths >= 3
    assert digests(store, unit) == digests(finished, unit)


def test_killed_in_the_middle_of_an_epoch_it_ends_in_the_same_bits(finished: Store, without: Callable[[str], Store]) -> None:
    store, unit = without("expert"), units_of(experiment(), "expert")[0]
    events = 0

    def report(event: UnitReport) -> None:
        nonlocal events
        events += 1
        if events == 5:
            raise Killed

    with pytest.raises(Killed):
        execute(unit.order(), store, report)
    execute(unit.order(), store, lambda event: None)
    assert digests(store, unit) == digests(finished, unit)


def test_a_damaged_object_is_found_by_the_unit_that_reads_it(without: Callable[[str], Store]) -> None:
    store, tree = without("distillation"), experiment()
    reader = UnitReader(store, "expert", units_of(tree, "expert")[0].id)
    key = reader.info("epoch-0001/image.safetensors").key
    store.write(key, store.read(key)[:-100])
    with pytest.raises(StoreError, match=rf"{key}.*damaged.*to have the unit made again"):
        run(store, units_of(tree, "distillation"))


def losses_of(store: Store, tree: Experiment) -> torch.Tensor:
    """(S, 2): of each outer step the terms of the loss it began with."""
    (unit,) = units_of(tree, "distillation")
    curves = read_tensors(UnitReader(store, "distillation", unit.id), "curves.safetensors")
    return torch.stack([curves["terms.image"], curves["terms.text"]], dim=1)


# What of the losses is as with the demo's settings: nothing from the first on, the first (the start is the same, the way is
# not), or all up to an approximation's error.
NOTHING, FIRST, ALMOST = "nothing", "the first", "all, almost"


@pytest.mark.parametrize(
    ("overrides", "alike"),
    [
        (["distill.initialise=noise"], NOTHING),
        (["distill.initialise=kmeans"], NOTHING),
        (["distill.optimiser=sgd"], FIRST),
        (
            [
                "distill.objective.gradient=finite_difference",
                "distill.objective.difference=forward",
                "distill.objective.check_every=2",
            ],
            ALMOST,
        ),
        (["distill.objective.gradient=full"], ALMOST),
        (["distill.batch_size=2"], NOTHING),
        (["distill.objective.gradient=tesla"], FIRST),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_other_ways_to_distil(overrides: list[str], alike: str, finished: Store, without: Callable[[str], Store]) -> None:
    store, tree = without("distillation"), experiment(*overrides)
    (unit,) = units_of(tree, "distillation")
    run(store, [u for u in make_graph(tree).units() if u.kind in ("features", "distillation")])
    facts = UnitReader(store, unit.kind, unit.id).facts
    assert facts["start"]["initialise"] == tree.distill.initialise.name
    assert [step for step, _ in facts["validation"]] == [0, 3, 6]
    if tree.distill.objective.gradient == "finite_difference":
        check = facts["objective"]["difference_check"]
        errors = [check["error"], *(error for _, error in check["later"])]
        assert [step for step, _ in check["later"]] == [2, 4]
        assert all(0 < error < tree.distill.objective.check_tolerance for error in errors)
    else:
        assert facts["objective"] == {}
    wanted, found = losses_of(finished, experiment()), losses_of(store, tree)
    assert torch.allclose(found[0], wanted[0], rtol=1e-5) is (alike != NOTHING)
    if alike == ALMOST:
        torch.testing.assert_close(found, wanted, rtol=0.05, atol=0.05)
    else:
        assert not torch.allclose(found[1], wanted[1], rtol=1e-3)


def test_a_students_dropout_shows_from_the_first_step(without: Callable[[str], Store]) -> None:
    store, base = without("expert"), ["model.text.head.dropout=0.3", "distill.outer_steps=2", "experts.count=1"]
    losses = []
    for dropout in ("false", "true"):
        tree = experiment(*base, f"distill.objective.dropout={dropout}")
        run(store, [unit for unit in make_graph(tree).units() if unit.kind in ("expert", "distillation")])
        losses.append(losses_of(store, tree))
    assert not torch.equal(losses[0][0], losses[1][0])


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["distill.lr_images=1e30", "distill.optimiser=sgd"], r"nan.* at outer step \d"),
        (["distill.objective.max_loss=0.01", "distill.outer_steps=40"], r"the outer loss averages .* up to 19"),
    ],
)
def test_divergence_names_the_step_and_the_mend(overrides: list[str], sentence: str, without: Callable[[str], Store]) -> None:
    store, tree = without("distillation"), experiment(*overrides)
    with pytest.raises(VlddError, match=rf"{sentence}.*lower distill.lr_images"):
        run(store, units_of(tree, "distillation"))


def test_differences_on_a_network_with_kinks_are_refused_before_anything_is_made(without: Callable[[str], Store]) -> None:
    """In the plan, and by a distillation of a plan that was made elsewhere."""
    kinked, differences = "model.image.model=test_resnet", "distill.objective.gradient=finite_difference"
    sentence = r"image_backbone\.conv1\.2 is a ReLU.*set distill.objective.gradient: exact"
    with pytest.raises(ConfigError, match=sentence):
        make_graph(experiment(kinked, differences))
    store, tree = without("distillation"), experiment(kinked)
    run(store, units_of(tree, "expert"))
    (unit,) = units_of(tree, "distillation")
    changed = unit.execution["settings"] | {
        "objective": unit.execution["settings"]["objective"] | {"gradient": "finite_difference"}
    }
    unit = replace(unit, execution=unit.execution | {"settings": changed})
    with pytest.raises(ConfigError, match=sentence):
        run(store, [unit])


def test_differences_that_drift_stop_the_run(without: Callable[[str], Store], monkeypatch: pytest.MonkeyPatch) -> None:
    """What the check finds at the start says nothing of later pairs."""
    store, check = without("distillation"), LocalUnrolling.check_differences

    def drifting(self: LocalUnrolling, *arguments: Any) -> EpsilonChoice:
        found = check(self, *arguments)
        return found if arguments[-1] is None else found._replace(error=found.error + 0.5)

    monkeypatch.setattr(LocalUnrolling, "check_differences", drifting)
    tree = experiment("distill.objective.gradient=finite_difference", "distill.objective.check_every=3")
    events: list[UnitReport] = []
    with pytest.raises(
        ConfigError, match=r"at outer step 3 finite_difference is off by 0\.5.* against exact over 2 inner steps"
    ):
        run(store, units_of(tree, "distillation"), events.append)
    notice, *steps = events
    assert isinstance(notice, Notice)
    assert "finite differences are off by" in notice.text
    assert [event.done for event in steps if isinstance(event, Progress)] == [1, 2, 3]
    last = steps[-1]
    assert isinstance(last, Progress)
    assert last.difference_error is not None
    assert 0 < last.difference_error < 0.05


def workspace(store: Store, unit: WorkUnit) -> StageContext:
    return StageContext(unit.order(), store, UnitWriter(store, unit.kind, unit.id, {}, {}), lambda event: None)


def test_what_is_selected_by_a_caption_trains_with_it(without: Callable[[str], Store]) -> None:
    """Seeds of the selection and of the run that differ from the features' change nothing about the captions."""
    store = without("distillation")
    tree = experiment(
        "coresets.methods=[herding, k_center]", "evaluation.seeds=[7]", "distill.initialise=kmeans", "distill.seeds=[5]"
    )
    run(store, [unit for unit in make_graph(tree).units() if unit.kind in ("features", "coreset", "distillation")])
    (features,) = units_of(tree, "features")
    room, joint = workspace(store, features), read_tensors(UnitReader(store, "features", features.id), "features.safetensors")
    split = room.dataset.load("train")
    captions = [given[number] for given, number in zip(split.captions, joint["caption"].tolist(), strict=True)]
    # They are the captions whose features these are, and not all the first ones.
    texts = encode_texts(load_expert(room), room.embeddings.lookup(captions), 16)
    torch.testing.assert_close(joint["text"], texts)
    assert len(joint["caption"].unique()) > 1
    of_key = dict(zip(split.keys, captions, strict=True))
    candidates = Candidates(48, joint["image"], joint["text"])
    herded = [split.keys[index] for index in choose(CORESETS, "herding").select(candidates, 4, numpy_generator(0))]
    found = {unit.spec["method"]["name"]: UnitReader(store, "coreset", unit.id).facts for unit in units_of(tree, "coreset")}
    assert found["herding"]["keys"] == herded
    (run_unit,) = units_of(tree, "distillation")
    run_facts = UnitReader(store, "distillation", run_unit.id).facts
    for facts in (found["herding"], found["k_center"], run_facts["start"]):
        assert len(set(facts["keys"])) == 4
        assert facts["captions"] == [of_key[key] for key in facts["keys"]]
    start = read_rows(UnitReader(store, "distillation", run_unit.id), "start")
    assert torch.equal(start["texts"], room.embeddings.lookup(run_facts["start"]["captions"]))


def test_captions_of_other_splits_are_not_training_captions(
    finished: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Embeddings of captions that only validation and test have are moved to where they would be seen."""
    copy = tmp_path / "copy"
    shutil.copytree(finished.root, copy)
    shutil.rmtree(copy / "units" / "publication")
    shutil.rmtree(copy / "distilled")
    store, decode = Store(str(copy)), CaptionEmbeddings.decode
    noisy = experiment("distill.initialise=noise")
    (published,), (noise,) = units_of(experiment(), "publication"), units_of(noisy, "distillation")
    pairs = read_rows(workspace(finished, published).reader("distillation"), "pairs")["texts"]
    training = {caption for given in workspace(finished, published).dataset.captions("train") for caption in given}

    def start() -> torch.Tensor:
        model = workspace(store, noise).build_model(0)
        pairs, _ = starting_pairs(run_context(workspace(store, noise), noisy.distill.run_settings(), model))
        return pairs.texts

    undisturbed = start()

    def with_strangers(reader: UnitReader) -> CaptionEmbeddings:
        found = decode(reader)
        strangers = [row for row, caption in enumerate(found.captions) if caption not in training]
        assert len(strangers) > 4
        for row in strangers:
            found.vectors[row] = pairs[row % 4] * 100
        return found

    monkeypatch.setattr(CaptionEmbeddings, "decode", with_strangers)
    assert torch.equal(start(), undisturbed)
    run(store, [published])
    folder = UnitReader(store, published.kind, published.id).facts["folder"]
    shown = load_distilled(store.url_of(folder)).captions
    assert len(shown) == 4
    assert {caption for one in shown for caption in (one.before, one.after)} <= training


def test_lora_and_head_only_experiments_run_through(without: Callable[[str], Store]) -> None:
    for overrides in (
        ["model.image.model=test_vit", "model.image.model_args={img_size: 32}", "model.image.train=lora"],
        ["model.image.train=head", "model.image.head.kind=linear", "model.joint_dim=16"],
    ):
        store, tree = without("expert"), experiment(*overrides, "experts.augment={flip: false}")
        run(store, make_graph(tree).units())
        (unit,) = units_of(tree, "publication")
        folder = UnitReader(store, unit.kind, unit.id).facts["folder"]
        assert load_distilled(store.url_of(folder)).recipe.image_train == tree.model.image.train
        shutil.rmtree(store.root)


def test_the_report_says_what_the_manifests_say(finished: Store) -> None:
    tree = experiment()
    graph = make_graph(tree)
    failed = graph.wanted("publication")[0]
    Reporter(graph, finished).write()
    rows = json.loads(finished.read("report/summary.json"))["rows"]
    assert {(row["method"], row["pairs"]) for row in rows} == {
        ("full", 48),
        ("random", 4),
        ("k_center", 4),
        ("forgetting", 4),
        ("distilled", 4),
    }
    full = [unit for unit in graph.wanted("evaluation") if "expert" in unit.inputs]
    recalls = [UnitReader(finished, unit.kind, unit.id).facts["test"]["tr5"] for unit in full]
    (full,) = [row for row in rows if row["method"] == "full"]
    assert full["metrics"]["tr5"]["mean"] == pytest.approx(sum(recalls) / 2)
    page = finished.read("report/index.html").decode()
    assert UnitReader(finished, failed.kind, failed.id).facts["digest"] in page
