"""An expert: a dual encoder trained on all real pairs, whose trajectory is stored (`vldd_dist.experts`)."""

from collections.abc import Iterable

from pydantic import Field

from vldd_dist.artifacts.facts import Count, Facts, Recalls
from vldd_dist.config.experiment import Experiment
from vldd_dist.config.sections.experts import ExpertSettings
from vldd_dist.cost_model.feature_trace import on_features
from vldd_dist.cost_model.io_model import DataSize, SplitRead, Traffic, stored_inputs, traffic_of, weights_bytes
from vldd_dist.cost_model.memory_model import Terms, TrainingStep, drops_gradients, expert_memory, per_rank, sizes_of
from vldd_dist.cost_model.memory_trace import MemoryTrace, TraceOf
from vldd_dist.cost_model.work_model import expert_flops, training_entries
from vldd_dist.experts.train import ExpertInputs, ExpertTraining
from vldd_dist.models.image.backbone import refuse_backbone_dropout
from vldd_dist.pipeline.context import StageContext
from vldd_dist.pipeline.stage import Key, StageSpec, UnitGraph
from vldd_dist.pipeline.stages.shared.inputs import load_retrieval_split
from vldd_dist.pipeline.stages.shared.model_units import expert_model, model_execution, model_input_units, model_spec, trace_of
from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.seeding import derive_seed


class ExpertFacts(Facts):
    loss: list[float] = Field(description="mean training loss of each epoch")
    validation: list[Recalls] = Field(description="recalls after each epoch; the first, epoch 0, is before training")
    epochs: list[Count] = Field(description="epochs whose snapshots are stored")


def kept_epochs(experiment: Experiment) -> list[int]:
    """Epochs whose snapshots an expert stores: all, or those that the distillation can use and the last."""
    settings, distill = experiment.experts, experiment.distill
    if settings.keep == "all":
        return list(range(settings.epochs + 1))
    reached = (phase.objective.reached_epochs() for phase in distill.of_phases())
    return sorted({settings.epochs}.union(*reached))


def unit(graph: UnitGraph, index: int) -> WorkUnit:
    """The expert with this index. All random draws of its training derive from the seed and the index."""
    experiment = graph.experiment
    training, model = experiment.experts.narrowed_to(ExpertSettings), expert_model(experiment)
    spec = {
        "training": training.identity(),
        "kept_epochs": kept_epochs(experiment),
        "model": model_spec(model),
        "seed": experiment.seed,
        "index": index,
    }
    how_to_run = model_execution(model) | training.execution()
    execution = {"encode_batch": experiment.evaluation.encode_batch, **how_to_run}
    inputs = {"dataset": graph.unit("dataset"), **model_input_units(graph, experiment.model)}
    return STAGE.new(experiment, spec, inputs, execution, f"expert {index}")


def wanted(graph: UnitGraph) -> Iterable[Key]:
    """All experts."""
    return ((index,) for index in range(graph.experiment.experts.count))


def run(context: StageContext) -> ExpertFacts:
    """Train the expert, starting from the newest checkpoint if there is one."""
    spec = context.spec
    model = context.build_model(derive_seed(spec["seed"], "expert", spec["index"], "head"))
    if context.ranks.world_size > 1:
        refuse_backbone_dropout(model)
    settings = context.settings(ExpertSettings, "training")
    inputs = ExpertInputs(
        model=model,
        dataset=context.dataset,
        embeddings=context.embeddings,
        features=context.image_features if settings.augment is None else None,
        validation=load_retrieval_split(context, model, "val"),
        loss=context.model_settings.loss,
        device=context.device,
        ranks=context.ranks,
    )
    curves = ExpertTraining(
        inputs,
        settings,
        seed=spec["seed"],
        index=spec["index"],
        kept_epochs=spec["kept_epochs"],
        encode_batch=context.execution["encode_batch"],
        writer=context.writer,
        report=context.report,
    ).run()
    validation = [Recalls.model_validate(recalls) for recalls in curves.validation]
    return ExpertFacts(loss=curves.loss, validation=validation, epochs=spec["kept_epochs"])


def memory(experiment: Experiment, traces: TraceOf) -> Terms:
    """The larger peak of a training step and of a pass without a graph."""
    settings, trace = experiment.experts, trace_of(experiment, traces)
    rows = per_rank(settings.batch_size, settings.workers)
    step = TrainingStep(
        rows * trace.real_input_bytes,
        first=trace.first_order(rows, training=True, of_batch=False, keep=not drops_gradients(settings.sharding)),
        encoding=_encoding(experiment, trace, rows),
    )
    return expert_memory(sizes_of(trace), step, settings)


def _encoding(experiment: Experiment, trace: MemoryTrace, rows: int) -> int:
    """The largest peak of a pass without a graph. Recall is measured on images or, with a frozen backbone, on features, which
    it computes in the unit if they are not stored: those of the validation images once, those of a step's images in each
    step. If these are augmented, no stored features are theirs.

    Args:
        rows: images of a step.
    """
    at_once, is_stored = experiment.evaluation.encode_batch, trace.has_features
    if not trace.freezes_backbone:
        return trace.encoding(at_once)
    in_unit = [] if is_stored else [at_once, rows]
    if is_stored and experiment.experts.augment is not None:
        in_unit = [rows]
    # The traced pass also builds the frozen backbone, which is a term of its own.
    through_backbone = [trace.encoding(images) - trace.frozen_backbone_bytes for images in in_unit]
    return max([on_features(trace, trace.settings).encoding(at_once), *through_backbone])


def traffic(experiment: Experiment, traces: TraceOf, data: DataSize | None, unit: WorkUnit | None) -> Traffic:
    """Reads the training and validation splits and the starting weights. Writes a checkpoint before the first epoch and after
    each epoch, which has the parameters (once, also if the snapshot is kept), the momentum and what is counted of each training
    entry for its forgetting."""
    settings, trace = experiment.experts, trace_of(experiment, traces)
    snapshot = sum(trace.trainable_bytes.values())
    # What `ForgettingCounts` holds of an entry: an int64 and two booleans.
    counts = 0 if data is None else round(10 * training_entries(settings, data))
    writes = (settings.epochs + 1) * (snapshot + counts) + (settings.epochs * snapshot if settings.momentum else 0)
    stored = stored_inputs(experiment.model)
    splits: dict[str, SplitRead] = {"train": stored if settings.augment is None else "images", "val": stored}
    return traffic_of(splits, data, trace, reads=weights_bytes(experiment.model, trace), writes=writes)


def flops(experiment: Experiment, traces: TraceOf, data: DataSize, unit: WorkUnit) -> float:
    """The operations of training one expert."""
    return expert_flops(experiment, trace_of(experiment, traces), data)


STAGE = StageSpec(
    kind="expert",
    version=5,
    title="experts",
    section="experts",
    result=ExpertFacts,
    unit=unit,
    run=run,
    priority=3,
    wanted=wanted,
    milestone="experts",
    own_process=True,
    lower_for_memory="experts.batch_size",
    memory=memory,
    traffic=traffic,
    flops=flops,
)
