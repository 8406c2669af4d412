"""Settings of plug-ins that only say how a unit runs: they reach the worker, and change no id. Settings that are lists."""

from typing import Annotated, Any, ClassVar

import numpy as np
import pytest
import torch
from pydantic import Field
from torch import Tensor

from vldd_dist.applications.continual_learning import ContinualLearning
from vldd_dist.config.base import HOW_TO_RUN, Positive
from vldd_dist.config.experiment import Experiment
from vldd_dist.coresets.base import Coreset
from vldd_dist.coresets.candidates import Candidates
from vldd_dist.errors import ConfigError
from vldd_dist.models.losses.infonce import InfoNCE
from vldd_dist.pipeline.graphs.experiment import Graph
from vldd_dist.pipeline.stages import application as application_stage
from vldd_dist.pipeline.stages import evaluation
from vldd_dist.pipeline.stages.coreset import select
from vldd_dist.plugins import CORESETS, LOSSES, METRICS
from vldd_dist.retrieval.metrics.base import Metric
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny_experiment import experiment, units_of, workspace


class ChunkedCoreset(Coreset):
    """The first pairs."""

    name: str = "chunked"
    weights: list[float] = Field([0.5, 0.5])
    kinds: set[str] = Field({"a", "b"})
    chunk: Annotated[Positive, HOW_TO_RUN] = 4096
    chunks: ClassVar[list[int]] = []

    def select(self, candidates: Candidates, count: int, generator: np.random.Generator) -> Tensor:
        self.chunks.append(self.chunk)
        return torch.arange(count)


class ChunkedLoss(InfoNCE):
    name: str = "chunked"
    # It has no default, so that a model without the run's settings could not be made.
    chunk: Annotated[Positive, HOW_TO_RUN]


class ChunkedMetric(Metric):
    """The size of its chunks."""

    name: str = "chunked"
    chunk: Annotated[Positive, HOW_TO_RUN] = 4096

    def measure(self, image_features: Tensor, text_features: Tensor, image_of_caption: Tensor) -> float:
        return float(self.chunk)


@pytest.fixture(autouse=True)
def entered(monkeypatch: pytest.MonkeyPatch) -> None:
    for registry, plugin in ((CORESETS, ChunkedCoreset), (LOSSES, ChunkedLoss), (METRICS, ChunkedMetric)):
        monkeypatch.setitem(registry.entries, "chunked", f"{__name__}:{plugin.__name__}")


def ids(tree: Experiment) -> set[tuple[str, str]]:
    return {(unit.kind, unit.id) for unit in Graph(tree).units()}


def test_how_a_coreset_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ChunkedCoreset, "chunks", [])
    plain, changed = experiment("coresets.methods=[chunked]"), experiment("coresets.methods=[{name: chunked, chunk: 64}]")
    assert ids(plain) == ids(changed)
    for tree in (plain, changed):
        select(units_of(tree, "coreset")[0].order(), Candidates(10))
    assert ChunkedCoreset.chunks == [4096, 64]
    with pytest.raises(ConfigError, match=r"coresets\.methods: 'chunked' is listed twice: name each value once"):
        experiment("coresets.methods=[chunked, {name: chunked, chunk: 64}]")


def test_how_a_loss_runs(finished: Store) -> None:
    loss = "model.loss={{name: chunked, chunk: {}}}"
    trees = [experiment(loss.format(chunk)) for chunk in (64, 128)]
    assert ids(trees[0]) == ids(trees[1])
    for kind in ("expert", "features", "distillation", "evaluation", "publication"):
        for unit in units_of(trees[0], kind):
            assert workspace(finished, unit).model_settings.loss.chunk == 64, unit.label


def test_how_a_metric_runs(finished: Store) -> None:
    plain, changed = experiment("evaluation.metrics=[chunked]"), experiment("evaluation.metrics=[{name: chunked, chunk: 64}]")
    assert ids(plain) == ids(changed)
    unit = next(unit for unit in units_of(changed, "evaluation") if "expert" in unit.inputs)
    assert evaluation.run(workspace(finished, unit)).metrics == {"chunked": 64.0}


def test_how_an_objective_inside_an_application_runs(finished: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def run(self: ContinualLearning, given: object) -> list[Any]:
        seen.append(self.distill.objective.offload_snapshots)
        return []

    monkeypatch.setattr(ContinualLearning, "run", run)
    monkeypatch.setattr(application_stage, "inputs_of", lambda context: None)
    for more in ("", ", offload_snapshots: cpu"):
        objective = f"{{name: bilevel, teacher_weight: 0{more}}}"
        tree = experiment(
            f"applications.run=[{{name: continual_learning, distill: {{objective: {objective}}}}}]",
            *("model.image.train=head", "model.image.head.kind=linear", "model.joint_dim=16", "model.image.weights=attributes"),
            *("data.train_images=200", "data.val_images=100", "data.test_images=100"),
        )
        application_stage.run(workspace(finished, units_of(tree, "application")[0]))
    assert seen == ["none", "cpu"]


def test_settings_of_a_coreset_may_be_lists_and_sets() -> None:
    (unit, *_) = units_of(experiment("coresets.methods=[{name: chunked, weights: [0.2, 0.8]}, chunked]"), "coreset")
    assert unit.spec["method"] == {"name": "chunked", "weights": [0.2, 0.8], "kinds": ["a", "b"]}
    assert unit.label == "chunked weights=[0.2, 0.8] 4 pairs seed 0"


def test_a_set_has_the_same_label_in_every_process() -> None:
    """The label is in the id of the publication."""
    chosen = experiment("coresets.methods=[{name: chunked, kinds: [e, c, d]}]")
    assert chosen.coresets.methods[0].label == "chunked kinds=['c', 'd', 'e']"
    assert "recall.chunked kinds=['c', 'd', 'e'].0.0" in units_of(chosen, "publication")[0].inputs
