"""An application of distilled pairs, compared with baselines (`vldd_dist.applications`)."""

from collections.abc import Iterable
from typing import Any

import torch

from vldd_dist.applications.base import Application
from vldd_dist.applications.feature_space.inputs import DistilledPairs, Inputs
from vldd_dist.applications.feature_space.planned import Planned
from vldd_dist.applications.feature_space.students import PairNumbers, Students
from vldd_dist.applications.result import Result
from vldd_dist.artifacts.facts import Facts
from vldd_dist.config.base import choose
from vldd_dist.config.experiment import Experiment
from vldd_dist.config.sections.evaluation import EvaluationProtocol
from vldd_dist.cost_model.feature_trace import on_features
from vldd_dist.cost_model.flop_trace import FlopTrace
from vldd_dist.cost_model.io_model import DataSize, Traffic, traffic_of, weights_bytes
from vldd_dist.cost_model.memory_model import FP32, Terms, peak, sizes_of, student_step_memory
from vldd_dist.cost_model.memory_trace import MemoryTrace, TraceOf
from vldd_dist.data.prepared.image_lines import repeated_key
from vldd_dist.data.sources.base import SPLITS
from vldd_dist.distillation.facts import DistillationFacts
from vldd_dist.evaluation.evaluator import TrainingPairs
from vldd_dist.events import Progress
from vldd_dist.models.dual_encoder import DualEncoder
from vldd_dist.models.image.frozen_backbone import CHUNK
from vldd_dist.models.inputs import on_device
from vldd_dist.pipeline.context import StageContext, read_rows, read_tensors
from vldd_dist.pipeline.stage import Key, StageSpec, UnitGraph
from vldd_dist.pipeline.stages.shared.inputs import load_retrieval_split
from vldd_dist.pipeline.stages.shared.model_units import model_execution, model_input_units, model_spec, trace_of
from vldd_dist.pipeline.stages.shared.protocol import protocol_of
from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.plugins import APPLICATIONS


class ApplicationFacts(Facts):
    application: str
    results: list[Result]


def unit(graph: UnitGraph, number: int, pairs: int | None = None, seed: int | None = None) -> WorkUnit:
    """The application with this index in the description and, if it needs one, the distilled set of M pairs with this seed."""
    experiment = graph.experiment
    application: Application = experiment.applications.run[number]
    model = experiment.model
    spec = {
        "application": application.identity(),
        "protocol": protocol_of(experiment, model.image.model),
        "model": model_spec(model),
        "seeds": experiment.evaluation.seeds,
        "seed": experiment.seed,
    }
    inputs = {"dataset": graph.unit("dataset"), **model_input_units(graph, model)}
    label = " ".join((application.name.replace("_", " "), *application.changed_settings()))
    if pairs is not None:
        inputs["distillation"] = graph.unit("distillation", pairs, seed)
        label += f" {pairs} pairs seed {seed}"
    execution = {
        "encode_batch": experiment.evaluation.encode_batch,
        "application": application.model_dump(mode="json"),
        **model_execution(model),
    }
    return STAGE.new(experiment, spec, inputs, execution, label)


def wanted(graph: UnitGraph) -> Iterable[Key]:
    """Each application; an application that needs a distilled set once for each set."""
    for number in range(len(graph.experiment.applications.run)):
        yield from keys_of(graph.experiment, number)


def keys_of(experiment: Experiment, number: int) -> list[Key]:
    """Keys of the units of the application with this index in the description."""
    if "distilled" not in experiment.applications.run[number].needed():
        return [(number,)]
    return [(number, pairs, seed) for pairs, seed in experiment.distill.sets()]


def run(context: StageContext) -> ApplicationFacts:
    application: Application = choose(APPLICATIONS, context.execution["application"])
    results = application.run(inputs_of(context))
    known = {figure.key for figure in application.figures}
    if unknown := [key for result in results for key in result.figures if key not in known]:
        name = application.name
        raise AssertionError(f"the application {name} returned the figure {unknown[0]!r}, which its `figures` does not name")
    rows = [(result.setting, result.method) for result in results]
    if repeated := next((row for number, row in enumerate(rows) if row in rows[:number]), None):
        raise AssertionError(
            f"the application {application.name} returned two results of the method {repeated[1]!r} and the setting "
            f"{repeated[0]!r}, which would be averaged: give each its own `setting`, or one result with a value for each seed"
        )
    return ApplicationFacts(application=application.name, results=results)


def inputs_of(context: StageContext) -> Inputs:
    """The inputs of the unit's application. Images are encoded once, and students train only their heads on these features."""
    spec, model = context.spec, context.build_model(0)
    train, validation, test = (load_retrieval_split(context, model, split) for split in SPLITS)
    protocol = context.settings(EvaluationProtocol, "protocol")
    dims = train.inputs.shape[1], train.texts.shape[1]
    distilled = _distilled(context, model) if "distillation" in context.order.inputs else None
    return Inputs(
        train=train,
        validation=validation,
        test=test,
        students=Students(context.model_settings, *dims, protocol, context.device),
        seeds=spec["seeds"],
        seed=spec["seed"],
        distilled=distilled,
        count=distilled.pairs.total if distilled else 0,
        report=lambda done, total: context.report(Progress(done, total)),
    )


def _distilled(context: StageContext, model: DualEncoder) -> DistilledPairs:
    reader = context.reader("distillation")
    rows, shared = read_rows(reader, "pairs"), read_tensors(reader, "shared.safetensors")
    rows, shared = on_device(rows, context.device), on_device(shared, context.device)
    pairs = TrainingPairs(rows, len(rows["images"]), shared=shared).in_model_inputs(model)
    start = reader.facts_as(DistillationFacts).start
    numbers = starting_numbers(context, start)
    # Noise has no keys.
    return DistilledPairs(pairs, numbers, half_real=numbers is None and "keys" in start)


def starting_numbers(context: StageContext, start: dict[str, Any]) -> PairNumbers | None:
    """The image and caption numbers of the training pairs from which a distillation started.

    Args:
        start: the `start` facts of the distillation's unit.

    Returns:
        None if images, texts or both did not start from real pairs.

    Raises:
        AssertionError: the source gives the key of a starting pair to another image with its caption too.
    """
    if "keys" not in start or "captions" not in start or start["images"] != start["texts"]:
        return None
    starting_pairs = dict.fromkeys(zip(start["keys"], start["captions"], strict=True))
    numbers_of: dict[tuple[str, str], tuple[int, int]] = {}
    image = caption = 0
    for shard in context.dataset.splits["train"].shards:
        for line in context.dataset.lines(shard):
            for number, text in enumerate(line.captions):
                if (line.key, text) in starting_pairs:
                    first, _ = numbers_of.setdefault((line.key, text), (image, caption + number))
                    if first != image:
                        raise repeated_key(line.key)
            image, caption = image + 1, caption + len(line.captions)
    numbers = [numbers_of[pair] for pair in starting_pairs]
    return PairNumbers(*(torch.tensor(column) for column in zip(*numbers, strict=True)))


def memory(experiment: Experiment, traces: TraceOf) -> Terms:
    """The peak, empty without applications: while the features of the distilled images are computed, or later, when the image
    backbone is no longer held, while the largest student is trained (in `on_split`, which keeps a copy of the best one with any
    number of rates). Not counted are the scores of recall and of membership inference, and a part's distillation."""
    applications: list[Application] = experiment.applications.run
    if not applications:
        return {}
    trace = trace_of(experiment, traces)
    sizes = sizes_of(trace)
    before = {"image backbone": sizes.frozen, "heads": sizes.trainable}
    if any("distilled" in application.needed() for application in applications):
        pairs = max(experiment.distill.pairs)
        activations = trace.backbone_pass(min(pairs, CHUNK)).without_graph
        before |= {"folded": trace.frozen_backbone_bytes, "pairs": pairs * trace.pair_bytes(pairs), "activations": activations}
    protocol, of_students = experiment.evaluation_on(experiment.model.image.model), list[Terms]()
    for application in applications:
        for model in application.models(experiment.model, experiment.seed):
            terms = student_step_memory(on_features(trace, model), protocol, protocol.batch_size, 1)
            of_students.append(terms | {"best so far": terms["student"]})
    return max([before, *of_students], key=peak)


def host_memory(experiment: Experiment, traces: TraceOf, data: DataSize) -> int:
    """The features of all images and the embeddings of all captions. Copies of parts of them are not counted."""
    trace, images = trace_of(experiment, traces), sum(data.images.values())
    return FP32 * (images * on_features(trace, experiment.model).image_dim + data.captions * trace.text_dim)


def traffic(experiment: Experiment, traces: TraceOf, data: DataSize | None, unit: WorkUnit | None) -> Traffic:
    """Reads the features and embeddings of all splits, the image tower's weights and the distilled pairs, if the application
    needs them (for no unit in particular: if any does). Writes only a manifest."""
    trace, reads = trace_of(experiment, traces), 0
    if unit is not None:
        reads = _distilled_count(unit)
    elif any("distilled" in application.needed() for application in experiment.applications.run):
        reads = max(experiment.distill.pairs)
    reads = reads * trace.pair_bytes(reads) + weights_bytes(experiment.model, trace)
    return traffic_of(dict.fromkeys(SPLITS, "features"), data, trace, reads=reads, writes=0)


def flops(experiment: Experiment, traces: TraceOf, data: DataSize, unit: WorkUnit) -> float | None:
    """The operations that the application counts, and those of the distilled images through the image tower."""
    application: Application = choose(APPLICATIONS, unit.execution["application"])
    trace, pairs = trace_of(experiment, traces), _distilled_count(unit)
    counted = application.flops(planned_run(experiment, trace, data, unit))
    return None if counted is None else counted + pairs * FlopTrace(trace).encoding


def planned_run(experiment: Experiment, trace: MemoryTrace, data: DataSize, unit: WorkUnit) -> Planned:
    """What a plan knows of the run of the unit's application; `trace` is that of the whole dual encoder."""
    return Planned(
        train=data.images["train"],
        validation=data.images["val"],
        test=data.images["test"],
        captions_per_image=data.captions_per_image,
        count=_distilled_count(unit),
        seeds=len(unit.spec["seeds"]),
        seed=unit.spec["seed"],
        model=experiment.model,
        protocol=EvaluationProtocol.model_validate(unit.spec["protocol"]),
        pair_dim=on_features(trace, experiment.model).image_dim + trace.text_dim,
        costs_of=lambda model: FlopTrace(on_features(trace, model)),
    )


def _distilled_count(unit: WorkUnit) -> int:
    """The number of distilled pairs that the unit reads."""
    return unit.inputs["distillation"].spec["pairs"] if "distillation" in unit.inputs else 0


STAGE = StageSpec(
    kind="application",
    version=9,
    title="applications",
    section="applications",
    result=ApplicationFacts,
    unit=unit,
    run=run,
    priority=7,
    wanted=wanted,
    lower_for_memory="evaluation.encode_batch",
    memory=memory,
    host_memory=host_memory,
    traffic=traffic,
    flops=flops,
)
