"""Results of plug-ins that would be wrong without a word: refused, or kept apart."""

from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from vldd_dist import plugins
from vldd_dist.applications.base import Application, Figure
from vldd_dist.applications.result import Result
from vldd_dist.applications.tables import apart_by_pairs, merged
from vldd_dist.data.sources.base import Part, Samples
from vldd_dist.data.sources.scenes import Scenes
from vldd_dist.pipeline.stages import application as application_stage
from vldd_dist.pipeline.stages import evaluation
from vldd_dist.retrieval.metrics.base import Metric
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny_experiment import experiment, run, units_of


class Twice(Application):
    title: ClassVar[str] = "twice"
    figures: ClassVar[tuple[Figure, ...]] = (Figure("recall", "mean recall"),)
    name: str = "twice"

    def run(self, given: Any) -> list[Result]:
        return [Result(method="distilled", figures={"recall": [value]}) for value in (1.0, 2.0)]

    def notes(self) -> list[str]:
        return []


def test_an_application_gives_each_row_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(plugins.APPLICATIONS.entries, "twice", f"{__name__}:Twice")
    monkeypatch.setattr(application_stage, "inputs_of", lambda context: None)
    with pytest.raises(AssertionError, match=r"application twice returned two results of the method 'distilled'"):
        application_stage.run(SimpleNamespace(execution={"application": {"name": "twice"}}))  # type: ignore[arg-type]


def test_results_of_different_numbers_of_pairs_are_not_averaged() -> None:
    def result(value: float, setting: str = "", method: str = "distilled") -> Result:
        return Result(method=method, setting=setting, figures={"recall": [value]})

    seeds = [(4, result(1)), (4, result(3))]
    assert merged(apart_by_pairs(seeds)) == [result(1).model_copy(update={"figures": {"recall": [1.0, 3.0]}})]
    mixed = merged(apart_by_pairs([*seeds, (8, result(5)), (4, result(7, "b")), (8, result(9, "c", "random"))]))
    found = [(one.setting, one.method, one.figures["recall"]) for one in mixed]
    assert found == [
        ("4 pairs", "distilled", [1.0, 3.0]),
        ("8 pairs", "distilled", [5.0]),
        ("b", "distilled", [7.0]),
        ("c", "random", [9.0]),
    ]


class Unlimited(Scenes):
    """Has more images than it is asked for."""

    name: str = "unlimited"

    def parts(self, split: str, *, limit: int | None, part_samples: int) -> list[Part]:
        return super().parts(split, limit=(limit or 0) + 1, part_samples=part_samples)


class Whole(Scenes):
    """Gives the samples of the whole split for each part."""

    name: str = "whole"

    def samples(self, split: str, part: Part, *, image_size: int, seed: int) -> Samples:
        return super().samples(split, Part(0, 48, samples=48), image_size=image_size, seed=seed)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("Unlimited", r"the source unlimited gave 49 images of train, and data\.train_images is 48: its `parts` must not have"),
        ("Whole", r"the source whole gave more than the 16 samples of train that are in a part: its `samples` must end at"),
    ],
)
def test_a_source_is_held_to_its_limit_and_its_parts(
    source: str, sentence: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = source.lower()
    monkeypatch.setitem(plugins.SOURCES.entries, name, f"{__name__}:{source}")
    tree = experiment(f"data.source={name}", "data.group_images=16")
    with pytest.raises(AssertionError, match=sentence):
        run(store, [unit for kind in ("shard_group", "dataset") for unit in units_of(tree, kind)])


class Seedless(Scenes):
    """Draws its images from a seed that is not in its description."""

    name: str = "seedless"

    def describe(self, split: str, part: Part, *, seed: int) -> dict[str, Any]:
        return {}


def test_a_source_that_draws_images_describes_them_by_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(plugins.SOURCES.entries, "seedless", f"{__name__}:Seedless")
    with pytest.raises(AssertionError, match="the source seedless draws its images, but its `describe` does not return the"):
        units_of(experiment("data.source=seedless"), "dataset")


class InPlace(Metric):
    name: str = "in_place"

    def measure(self, image_features: Tensor, text_features: Tensor, image_of_caption: Tensor) -> float:
        for tensor in (image_features, text_features, image_of_caption):
            tensor.zero_()
        return 0


class Sum(Metric):
    name: str = "sum"

    def measure(self, image_features: Tensor, text_features: Tensor, image_of_caption: Tensor) -> float:
        return float(image_features.sum() + text_features.sum() + image_of_caption.sum())


class NotFinite(Metric):
    name: str = "not_finite"

    def measure(self, image_features: Tensor, text_features: Tensor, image_of_caption: Tensor) -> float:
        return float("nan")


def test_a_metric_does_not_change_the_next_one_and_is_finite() -> None:
    tensors = torch.ones(2, 3), torch.ones(4, 3), torch.tensor([0, 0, 1, 1])
    assert [evaluation._value_of(metric, *tensors) for metric in (InPlace(), Sum())] == [0, 6 + 12 + 2]
    with pytest.raises(AssertionError, match="the metric not_finite returned nan: it must return a finite number"):
        evaluation._value_of(NotFinite(), *tensors)
