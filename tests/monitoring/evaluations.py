"""Evaluations with known recalls."""

from collections.abc import Iterator

from vldd_dist.artifacts.facts import Recalls
from vldd_dist.artifacts.unit_writer import UnitWriter
from vldd_dist.config.experiment import Experiment
from vldd_dist.pipeline.graphs.experiment import Graph
from vldd_dist.pipeline.stages.evaluation import EvaluationFacts
from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.recall_metrics import RECALL_METRICS
from vldd_dist.store.store import Store


def commit_evaluations(store: Store, tree: Experiment, recalls: Iterator[float]) -> list[tuple[WorkUnit, float]]:
    """A manifest for each evaluation that the experiment wants. Returns its recall, the same in all metrics."""
    found = list(zip(Graph(tree).wanted("evaluation"), recalls, strict=False))
    for unit, value in found:
        facts = EvaluationFacts(test=Recalls.model_validate(dict.fromkeys(RECALL_METRICS, value)))
        UnitWriter(store, unit.kind, unit.id, {}, {}).commit(facts, cpus=unit.cpus, gpus=unit.gpus)
    return found
