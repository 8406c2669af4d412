"""An evaluation: test recall of a trained expert, or of a student trained on pairs."""

import math
from collections.abc import Iterable
from typing import Any

from pydantic import Field
from torch import Tensor

from vldd_dist.artifacts.facts import Facts, Recalls
from vldd_dist.config.base import choose
from vldd_dist.config.experiment import Experiment
from vldd_dist.config.sections.evaluation import EvaluationProtocol
from vldd_dist.config.sections.model import ImageTowerSettings
from vldd_dist.cost_model.io_model import DataSize, Traffic, stored_inputs, traffic_of, weights_bytes
from vldd_dist.cost_model.memory_model import Terms, peak, sizes_of, student_step_memory
from vldd_dist.cost_model.memory_trace import TraceOf
from vldd_dist.cost_model.work_model import measuring, student_flops
from vldd_dist.evaluation.evaluator import TrainingPairs
from vldd_dist.events import Progress
from vldd_dist.models.dual_encoder import DualEncoder
from vldd_dist.models.inputs import on_device
from vldd_dist.pipeline.context import StageContext, model_settings_of, read_rows, read_tensors
from vldd_dist.pipeline.stage import Key, StageSpec, UnitGraph
from vldd_dist.pipeline.stages.shared.evaluated_sets import EvaluatedStudent, evaluated_sets
from vldd_dist.pipeline.stages.shared.inputs import load_expert, load_retrieval_split
from vldd_dist.pipeline.stages.shared.model_units import (
    expert_model,
    model_execution,
    model_input_units,
    model_named,
    model_spec,
    on_real_pairs,
)
from vldd_dist.pipeline.stages.shared.protocol import make_evaluator, protocol_of
from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.plugins import METRICS
from vldd_dist.retrieval.encode import joint_features
from vldd_dist.retrieval.metrics.base import Metric
from vldd_dist.retrieval.recall import recall


class EvaluationFacts(Facts):
    test: Recalls
    learning_rate: float | None = Field(None, description="learning rate of the student, chosen on the validation split")
    metrics: dict[str, float] = Field(default={}, description="further metrics on the test split, by name")
    validation: list[tuple[float, Recalls]] = Field(
        default=[],
        description="(learning rate, recalls in percent on the validation split), for each learning rate that did not diverge",
    )


def unit(graph: UnitGraph, evaluated: Key, student: EvaluatedStudent | None) -> WorkUnit:
    """The unit that evaluates an expert or pairs.

    Args:
        evaluated: (kind, *key) of the unit with the expert or the pairs.
        student: trained on the pairs; None: an expert is evaluated.
    """
    experiment = graph.experiment
    source = graph.unit(*evaluated)
    model = expert_model(experiment) if student is None else model_named(experiment, student.image_model)
    if source.kind == "coreset":
        model = on_real_pairs(model)
    label = f"evaluation of {source.label}"
    spec: dict[str, Any] = {
        "model": model_spec(model),
        "metrics": [metric.identity() for metric in experiment.evaluation.metrics],
    }
    if student is not None:
        spec |= {"protocol": protocol_of(experiment, student.image_model), "seed": student.seed}
        label += f", {student.image_model}, seed {student.seed}"
    return STAGE.new(
        experiment,
        spec,
        {"dataset": graph.unit("dataset"), "expert" if student is None else "pairs": source, **model_input_units(graph, model)},
        {
            "encode_batch": experiment.evaluation.encode_batch,
            "metrics": [metric.model_dump(mode="json") for metric in experiment.evaluation.metrics],
            **model_execution(model),
        },
        label,
    )


def wanted(graph: UnitGraph) -> Iterable[Key]:
    """Each expert (trained on the full data), then each set of pairs with each of its seeds and image models."""
    experiment = graph.experiment
    for index in range(experiment.experts.count):
        yield ("expert", index), None
    for chosen in evaluated_sets(experiment):
        yield from chosen.evaluations()


def run(context: StageContext) -> EvaluationFacts:
    """Evaluate. The learning rate is chosen on the validation split; the test split is used once, at the end."""
    if "expert" in context.order.inputs:
        test, metrics = _test(context, load_expert(context))
        return EvaluationFacts(test=test, metrics=metrics)
    evaluator = make_evaluator(context, "protocol", context.spec["seed"])
    model = evaluator.build_student()
    choice = evaluator.choose(
        training_pairs(context, model),
        load_retrieval_split(context, model, "val"),
        lambda done, total: context.report(Progress(done, total)),
    )
    validation = [(rate, Recalls.model_validate(recall.as_dict())) for rate, recall in choice.validation.items()]
    test, metrics = _test(context, choice.student)
    return EvaluationFacts(test=test, metrics=metrics, learning_rate=choice.learning_rate, validation=validation)


def _test(context: StageContext, model: DualEncoder) -> tuple[Recalls, dict[str, float]]:
    """Recall and the further metrics on the test split."""
    split = load_retrieval_split(context, model, "test")
    images, texts = joint_features(model, split, context.execution["encode_batch"])
    metrics: list[Metric] = [choose(METRICS, settings) for settings in context.execution["metrics"]]
    found = recall(images, texts, split.image_of_caption).as_dict()
    further = {metric.label: _value_of(metric, images, texts, split.image_of_caption.to(images.device)) for metric in metrics}
    return Recalls.model_validate(found), further


def _value_of(metric: Metric, images: Tensor, texts: Tensor, image_of_caption: Tensor) -> float:
    """The metric's value. It gets copies, because a plug-in may change its tensors in place."""
    value = float(metric.measure(images.clone(), texts.clone(), image_of_caption.clone()))
    if not math.isfinite(value):
        raise AssertionError(f"the metric {metric.label} returned {value}: it must return a finite number for any features")
    return value


def training_pairs(context: StageContext, model: DualEncoder) -> TrainingPairs:
    """The pairs of the unit's input. A coreset's images are normalised here. Synthetic images are stored normalised, for the
    tower that they were learned with; they are normalised anew for a tower with another mean or standard deviation."""
    reader = context.reader("pairs")
    rows, shared = read_rows(reader, "pairs"), {}
    if reader.manifest.kind == "coreset":
        rows = {"images": model.normalise(rows["images"].to(context.device)), "texts": rows["texts"]}
    else:
        shared = read_tensors(reader, "shared.safetensors")
        learned_with = ImageTowerSettings.model_validate(reader.manifest.spec["model"]["image"])
        rows = rows | {"images": model.renormalise(rows["images"].to(context.device), learned_with.mean, learned_with.std)}
    return TrainingPairs(
        on_device(rows, context.device),
        len(rows["images"]),
        shared=on_device(shared, context.device),
    )


def memory(experiment: Experiment, traces: TraceOf) -> Terms:
    """The peak while a student is trained on the largest number of pairs; the maximum over the image models."""
    pairs = max(experiment.distill.pairs)
    of_models = []
    for name in experiment.image_models():
        trace = traces(model_named(experiment, name), experiment.data.image_size)
        sizes = sizes_of(trace)
        held = {"pairs": pairs * trace.pair_bytes(pairs), "second model": sizes.trainable + sizes.frozen}
        of_models.append(held | student_step_memory(trace, experiment.evaluation_on(name), pairs, 1))
    return max(of_models, key=peak)


def traffic(experiment: Experiment, traces: TraceOf, data: DataSize | None, unit: WorkUnit | None) -> Traffic:
    """Reads the pairs, an image model's weights, and the validation and test splits. Writes only a manifest. For no unit in
    particular: of the image model with the most traffic."""
    models, pairs = [model_named(experiment, name) for name in experiment.image_models()], max(experiment.distill.pairs)
    if unit is not None:
        models = [model_settings_of(unit)]
    of_models = []
    for model in models:
        trace = traces(model, experiment.data.image_size)
        reads = pairs * trace.pair_bytes(pairs) + weights_bytes(model, trace)
        of_models.append(traffic_of(dict.fromkeys(["val", "test"], stored_inputs(model)), data, trace, reads=reads, writes=0))
    return max(of_models, key=lambda traffic: traffic.reads + (traffic.data or 0))


def flops(experiment: Experiment, traces: TraceOf, data: DataSize, unit: WorkUnit) -> float:
    """The operations of recall on the test split and, unless an expert is evaluated, of training and validating students."""
    trace = traces(model_settings_of(unit), experiment.data.image_size)
    test = sum(measuring(trace, data, "test"))
    if "pairs" not in unit.inputs:
        return test
    once, each = measuring(trace, data, "val")
    settings = EvaluationProtocol.model_validate(unit.spec["protocol"])
    return student_flops(trace, settings, unit.inputs["pairs"].spec["pairs"], each) + once + test


STAGE = StageSpec(
    kind="evaluation",
    version=6,
    title="evaluations",
    section="evaluation",
    result=EvaluationFacts,
    unit=unit,
    run=run,
    priority=7,
    wanted=wanted,
    lower_for_memory="evaluation.batch_size or evaluation.encode_batch",
    memory=memory,
    traffic=traffic,
    flops=flops,
)
