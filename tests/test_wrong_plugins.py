"""A plug-in that is registered or written wrongly ends in a sentence that names it, and not in a wrong result."""

import math
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from vldd_dist import plugins
from vldd_dist.applications.base import Application, Figure
from vldd_dist.applications.result import Result
from vldd_dist.artifacts.tensor_files.tensor_cache import TensorCache
from vldd_dist.artifacts.tensor_files.trajectories import Trajectory
from vldd_dist.config.loading.load import load_experiment
from vldd_dist.config.sections.data import DataSettings
from vldd_dist.coresets.base import Coreset, groups
from vldd_dist.coresets.candidates import Candidates
from vldd_dist.coresets.random import RandomPairs
from vldd_dist.data.sources.base import Part, Samples, Source, parts_of
from vldd_dist.data.sources.sample import RawSample
from vldd_dist.distillation.history import History
from vldd_dist.distillation.objectives import Objective, OuterGradient
from vldd_dist.distillation.objectives.unrolled import UnrolledObjective
from vldd_dist.distillation.outer_loop import Distillation
from vldd_dist.distillation.pairs import SyntheticPairs
from vldd_dist.errors import ConfigError, DataError, StoreError
from vldd_dist.pipeline.stages import application as application_stage
from vldd_dist.plugins import CORESETS, Registry
from vldd_dist.seeding import numpy_generator
from vldd_dist.sharding.ranks import SOLO
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.prepared_data import prepare

HERE = sys.modules[__name__]


def enter(monkeypatch: pytest.MonkeyPatch, registry: Registry, name: str, plugin: object) -> None:
    monkeypatch.setattr(HERE, "entered", plugin, raising=False)
    monkeypatch.setitem(registry.entries, name, f"{__name__}:entered")


class Chosen(Coreset):
    """Chooses what a test gives it."""

    name: str = "chosen"
    given: ClassVar[Any] = None

    def select(self, candidates: Candidates, count: int, generator: np.random.Generator) -> Tensor:
        return self.given


class Unfinished(Coreset):
    name: str = "unfinished"


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        (f"{__name__}:Missing", f"but {__name__} has no 'Missing': correct the entry"),
        (__name__, f"but {__name__} has no '': correct the entry"),
        (
            f"{__name__}:enter",
            r"but that is no Coreset: correct the entry, or derive it from vldd_dist\.coresets\.base",
        ),
        ("vldd_dist.models.losses.infonce:InfoNCE", "but that is no Coreset"),
        (f"{__name__}:Unfinished", "but that lacks the method select: write it"),
    ],
)
def test_a_wrong_entry_is_one_sentence(target: str, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CORESETS.entries, "wrong", target)
    with pytest.raises(ConfigError, match=rf"the coreset 'wrong' is registered as {re.escape(target)}, {sentence}"):
        load_experiment("jobs/presets/scenes.yaml", ["coresets.methods=[wrong]"])


@pytest.mark.parametrize(
    ("name", "targets"),
    [
        ("mine", "one_package:Mine and as other_package:Mine"),
        ("random", r"one_package:Random and as vldd_dist\.coresets\.random:RandomPairs"),
        ("again", None),
    ],
)
def test_two_plugins_of_one_name_are_refused(
    name: str, targets: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which of two packages comes first depends on the order of a folder's entries, and may differ between machines."""
    for package, more in (("one_package", "random = one_package:Random"), ("other_package", "")):
        (info := tmp_path / f"{package}-1.dist-info").mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1\n")
        entries = [f"mine = {package}:Mine", "again = vldd_dist.coresets.random:RandomPairs", more]
        (info / "entry_points.txt").write_text("\n".join(["[vldd_dist.coresets]", *entries]))
    monkeypatch.syspath_prepend(tmp_path)
    registry = Registry("coreset", CORESETS.interface, CORESETS.entries)
    if targets is None:
        assert registry.load(name) is RandomPairs
    else:
        with pytest.raises(ValueError, match=f"the coreset '{name}' is registered as {targets}: register all but one under"):
            registry.load(name)


def test_every_registry_knows_the_interface_of_its_kind() -> None:
    for registry in plugins.REGISTRIES:
        for name in registry.entries:
            registry.load(name)


@pytest.mark.parametrize(
    "chosen",
    [
        torch.arange(3),
        torch.arange(5),
        torch.zeros(4, dtype=torch.int64),
        torch.tensor([0.0, 0.7, 1.0, 1.7]),
        torch.tensor([0, 1, 2, 10]),
        torch.tensor([0, 1, 2, -1]),
        np.arange(4),
    ],
)
def test_a_coreset_of_other_pairs_than_it_was_asked_for_is_refused(chosen: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Chosen, "given", chosen)
    with pytest.raises(AssertionError, match=r"the coreset chosen must choose 4 distinct ones of the 10 training pairs"):
        groups(Chosen(), Candidates(10), 4, numpy_generator("x"))


def test_a_coreset_of_right_pairs_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Chosen, "given", torch.tensor([3, 9, 0, 1]))
    assert [group.tolist() for group in groups(Chosen(), Candidates(10), 4, numpy_generator("x"))] == [[3], [9], [0], [1]]


def test_needs_that_nobody_supplies_are_refused_and_unnamed_ones_explained() -> None:
    with pytest.raises(
        ValueError, match=r"Near\.needs: there is no 'feature': choose of embeddings, expert_features, forgetting"
    ):

        class Near(Chosen):
            needs: ClassVar[frozenset[str]] = frozenset({"feature"})

    with pytest.raises(AssertionError, match="a coreset used features that its `needs` does not name"):
        Candidates(4).joint()


class Plain(Application):
    """Returns the figures that a test gives it."""

    title: ClassVar[str] = "plain"
    figures: ClassVar[tuple[Figure, ...]] = (Figure("recall", "mean recall"),)
    name: str = "plain"

    def run(self, given: Any) -> list[Result]:
        return [Result(method="distilled", figures={"recall": [1.0]}), Result(method="random", figures={"recal": [1.0]})]

    def notes(self) -> list[str]:
        return []


def test_an_application_has_a_title_and_names_its_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"the application Untitled lacks 'title': its table needs it"):

        class Untitled(Application):
            figures: ClassVar[tuple[Figure, ...]] = ()
            run, notes = Plain.run, Plain.notes

    enter(monkeypatch, plugins.APPLICATIONS, "plain", Plain)
    monkeypatch.setattr(application_stage, "inputs_of", lambda context: None)
    with pytest.raises(AssertionError, match=r"the application plain returned the figure 'recal', which its `figures`"):
        application_stage.run(SimpleNamespace(execution={"application": {"name": "plain"}}))  # type: ignore[arg-type]


class Drawn(Source):
    """Samples that a test changes."""

    name: str = "drawn"
    changes: ClassVar[dict[str, Any]] = {}

    def parts(self, split: str, *, limit: int | None, part_samples: int) -> list[Part]:
        return parts_of(2, part_samples)

    def samples(self, split: str, part: Part, *, image_size: int, seed: int) -> Samples:
        for index in range(part.start, part.stop):
            image = Image.new("RGBA", (image_size, image_size), (index, 0, 0, 0))
            sample: dict[str, Any] = {"key": f"{split}{index}", "captions": [f"{index} of {split}"]}
            yield RawSample(source=f"drawing {index}", container="drawn", image=image, **(sample | self.changes))

    def describe(self, split: str, part: Part, *, seed: int) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"captions": "a square"}, "drawing 0: captions: expected a list of texts"),
        ({"captions": []}, "drawing 0: captions: empty"),
        ({"key": "a.b"}, r"drawing 0: the key 'a\.b' is empty or has a '\.' or '/': correct it"),
        ({"key": "a/b"}, "drawing 0: the key 'a/b' is empty"),
    ],
)
def test_a_sources_samples_are_checked(
    changes: dict[str, Any], sentence: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter(monkeypatch, plugins.SOURCES, "drawn", Drawn)
    monkeypatch.setattr(Drawn, "changes", changes)
    with pytest.raises(DataError, match=sentence):
        prepare(store, DataSettings(source="drawn", image_size=16))


def test_a_sources_metadata_replace_no_captions_and_its_images_are_put_on_white(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """128 pixels, of which JPEGs are made: those have no transparency."""
    enter(monkeypatch, plugins.SOURCES, "drawn", Drawn)
    monkeypatch.setattr(Drawn, "changes", {"extra": {"captions": ["another"], "id": "other"}})
    dataset = prepare(store, DataSettings(source="drawn", image_size=128))
    assert dataset.captions("train") == [["0 of train"], ["1 of train"]]
    assert (dataset.images("train") == 255).all()


def test_a_palette_becomes_colours_before_it_is_resized() -> None:
    image = Image.new("RGB", (8, 8), (255, 0, 0)).convert("P")
    assert RawSample("a", "a", "a", image, ["a"]).decoded().getpixel((0, 0)) == (255, 0, 0)


class Far(Objective):
    """Reads the snapshot of an epoch that experts do not reach."""

    needs: ClassVar[frozenset[str]] = frozenset({"experts"})
    name: str = "far"

    def open(self, context: Any) -> Any:
        raise NotImplementedError

    def reached_epochs(self) -> frozenset[int]:
        return frozenset({9})


def test_epochs_that_experts_do_not_reach_or_keep_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    enter(monkeypatch, plugins.OBJECTIVES, "far", Far)
    sentence = r"far reads the experts' snapshots of epoch 9, more than experts.epochs \(3\): train longer"
    with pytest.raises(ConfigError, match=sentence):
        load_experiment("jobs/presets/scenes.yaml", ["distill.objective=far", "experts.epochs=3"])
    load_experiment("jobs/presets/scenes.yaml", ["distill.objective=far", "experts.epochs=9"])
    manifest = SimpleNamespace(objects={"epoch-0003/image.safetensors": None})
    reader: Any = SimpleNamespace(manifest=manifest, store=SimpleNamespace(url_of=str), prefix="units/expert/x")
    with pytest.raises(StoreError, match=r"no snapshot of epoch 0, only of \[3\]: an objective names .* `reached_epochs`"):
        Trajectory(reader, TensorCache()).snapshot(0, "image")


class Unchecked(UnrolledObjective):
    """It compares no finite differences with `exact`."""

    name: str = "unchecked"

    def open(self, context: Any) -> Any:
        raise NotImplementedError


def test_finite_differences_that_an_objective_does_not_check_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    enter(monkeypatch, plugins.OBJECTIVES, "unchecked", Unchecked)
    sentence = r"gradient: finite_difference is accepted only where it is checked against exact, and .*: unchecked does not"
    with pytest.raises(ConfigError, match=sentence):
        load_experiment("jobs/presets/scenes.yaml", ["distill.objective={name: unchecked, gradient: finite_difference}"])
    load_experiment("jobs/presets/scenes.yaml", ["distill.objective=unchecked"])


def outer_step(gradients: Mapping[str, Tensor], terms: Mapping[str, Any], ranks: Any = SOLO) -> History:
    """An outer step of images, texts and inner learning rates with these gradients and terms."""
    settings = load_experiment("jobs/presets/scenes.yaml", []).distill
    context: Any = SimpleNamespace(settings=settings, report=None, choices={}, total=2, ranks=ranks)
    pairs = SyntheticPairs({"images": torch.zeros(2, 3, 4, 4), "texts": torch.zeros(2, 5)}, {"log_rates": torch.zeros(2)})
    of_rows = {name: gradient for name, gradient in gradients.items() if name in pairs.rows}
    shared = {name: gradient for name, gradient in gradients.items() if name in pairs.shared}
    given = OuterGradient({**terms}, torch.arange(2), of_rows, shared)
    problem: Any = SimpleNamespace(gradient=lambda step, pairs: given)
    rates = dict.fromkeys(("images", "texts", "log_rates"), 0.1)
    run = Distillation(problem, pairs, rates, context, validate=lambda pairs: 0.0, writer=None)
    run.outer_step(0)
    return run.history


@pytest.mark.parametrize(
    ("missing", "mend"),
    [
        ("images", "set distill.lr_images to 0"),
        ("texts", "set distill.lr_texts to 0"),
        ("log_rates", "return its gradient in `shared_gradients`, or give it the learning rate 0 in `learned_shared`"),
    ],
)
def test_an_objective_must_learn_what_has_a_learning_rate(missing: str, mend: str) -> None:
    given = {name: gradient for name, gradient in MOVED.items() if name != missing}
    with pytest.raises(ConfigError, match=f"trajectory_matching does not learn {missing}: {mend}"):
        outer_step(given, {"a": 1.0})


MOVED = {"images": torch.zeros(2, 3, 4, 4), "texts": torch.zeros(2, 5), "log_rates": torch.zeros(2)}


def beside(others: dict[str, float]) -> Any:
    """Two ranks, of which the other returned these terms."""
    return SimpleNamespace(all_gather=lambda terms: [terms, others])


@pytest.mark.parametrize("others", [{"a": 1.01, "b": 2.0}, {"a": 1.0}, {"a": 1.0, "b": math.nan}])
def test_terms_of_one_rank_are_refused(others: dict[str, float]) -> None:
    """The gradients of such an objective are wrong, and so is the curve, which is that of rank 0."""
    with pytest.raises(AssertionError, match=r"trajectory_matching returned the terms .* on rank 0 .* on rank 1: every rank"):
        outer_step(MOVED, {"a": 1.0, "b": 2.0}, beside(others))


def test_terms_that_are_rounded_otherwise_on_another_rank_are_accepted() -> None:
    assert outer_step(MOVED, {"a": 1.0}, beside({"a": 1.00001})).losses == [1.0]


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad")
def test_terms_that_are_tensors_keep_no_graph() -> None:
    history = outer_step(MOVED, {"a": (torch.ones((), requires_grad=True) * 2), "b": torch.tensor(1.5)})
    assert [type(value) for value in (*history.losses, *history.terms["a"], *history.terms["b"])] == [float] * 3
    assert history.losses == [3.5]


def test_terms_that_change_their_names_are_refused() -> None:
    history = History()
    history.add({"a": 1.0}, {})
    history.add({"a": 2.0}, {})
    with pytest.raises(AssertionError, match=r"the outer loss has the terms \['b'\] at outer step 2, and \['a'\] before"):
        history.add({"b": 1.0}, {})
    assert history.losses == [1.0, 2.0]
