"""A distillation: M synthetic pairs learned from the experts' trajectories (`vldd_dist.distillation`)."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from pydantic import Field

from vldd_dist.artifacts import tensors
from vldd_dist.artifacts.facts import Count, Facts, Percent
from vldd_dist.artifacts.row_files import row_file_name
from vldd_dist.artifacts.snapshot_cache import SnapshotCache
from vldd_dist.artifacts.trajectories import Trajectory
from vldd_dist.artifacts.units import is_done
from vldd_dist.config.distillation import DistillSettings
from vldd_dist.config.experiment import Experiment
from vldd_dist.cost_model.io_model import DataSize, Traffic, traffic_of, weights_bytes
from vldd_dist.cost_model.memory_model import (
    Step,
    Terms,
    distillation_memory,
    drops_gradients,
    is_sharded,
    per_rank,
    sizes_of,
    student_step_memory,
)
from vldd_dist.cost_model.memory_trace import TraceOf
from vldd_dist.distillation.experts import ExpertAwaited, Experts
from vldd_dist.distillation.outer_loop import Distillation
from vldd_dist.distillation.pairs import (
    SyntheticPairs,
    kmeans_indices,
    random_indices,
    start_from_noise,
    start_from_real,
)
from vldd_dist.distillation.sampling import inner_batch_size
from vldd_dist.distillation.unrolling import CHECKED_PAIRS, make_unrolling, shelf_for
from vldd_dist.evaluation.evaluator import TrainingPairs
from vldd_dist.models.dual_encoder import DualEncoder
from vldd_dist.models.image import refuse_backbone_dropout
from vldd_dist.models.inputs import CHUNK
from vldd_dist.pipeline.context import StageContext
from vldd_dist.pipeline.evaluated_sets import make_evaluator, protocol_of
from vldd_dist.pipeline.inputs import captions_selected_by, load_candidates, load_pairs, load_retrieval_split
from vldd_dist.pipeline.model_units import model_inputs, model_spec
from vldd_dist.pipeline.outcome import InputAwaited
from vldd_dist.pipeline.stage import Key, StageSpec, Units
from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.seeding import derive_seed


class DifferenceCheck(Facts):
    """The step size that finite differences use, and how well their gradient agreed with a reference."""

    relative_step: float = Field(description="|epsilon v| / |theta|, chosen at the start")
    error: float = Field(description="relative l2 error of the gradient of a whole unroll at the start")
    against: str = Field(description="the reference: exact, or another step size if exact did not fit into memory")
    later: list[tuple[Count, float]] = Field(default=[], description="(outer step, error) of later checks")


class DistillationFacts(Facts):
    best_step: Count = Field(description="outer step with the best validation recall; its pairs are the result")
    best_validation: Percent
    validation: list[tuple[Count, Percent]] = Field(description="(outer step, mean recall in percent)")
    start: dict[str, Any] = Field(description="provenance of the starting pairs")
    difference_check: DifferenceCheck | None = Field(None, description="where the gradient is finite_difference")


def unit(graph: Units, pairs: int, seed: int) -> WorkUnit:
    """One run with M pairs."""
    experiment, settings = graph.experiment, graph.experiment.distill
    identity = settings.identity()
    spec = {
        "settings": {name: value for name, value in identity.items() if name not in ("pairs", "seeds")},
        "validation": protocol_of(experiment),
        "model": model_spec(experiment.model),
        "pairs": pairs,
        "seed": seed,
    }
    execution = {"encode_batch": experiment.evaluation.encode_batch, **settings.execution()}
    inputs = {"dataset": graph.unit("dataset"), **model_inputs(graph, experiment.model)}
    experts = {f"expert_{index:03d}": graph.unit("expert", index) for index in range(experiment.experts.count)}
    inputs |= experts
    later = frozenset(list(experts)[settings.min_experts :]) if settings.min_experts else frozenset()
    if settings.initialise == "kmeans":
        inputs["features"] = graph.unit("features", 0)
    return STAGE.new(experiment, spec, inputs, execution, f"distillation {pairs} pairs seed {seed}", later=later)


def wanted(graph: Units) -> Iterable[Key]:
    """Each budget with each seed."""
    settings = graph.experiment.distill
    return ((pairs, seed) for pairs in settings.pairs for seed in settings.seeds)


def run(context: StageContext) -> dict[str, Any]:
    """Distil, from the newest checkpoint if there is one."""
    spec, ranks, total = context.spec, context.ranks, context.spec["pairs"]
    settings = DistillSettings.model_validate(
        spec["settings"] | {"pairs": [total], "seeds": [spec["seed"]]} | context.execution_of(DistillSettings)
    )
    model = context.build_model(derive_seed(spec["seed"], "student"))
    if ranks.world_size > 1 and settings.dropout:
        refuse_backbone_dropout(model)
    evaluator = make_evaluator(context, spec["validation"], derive_seed(spec["seed"], "validation"))
    validation = load_retrieval_split(context, model, "val")

    def validate(pairs: SyntheticPairs) -> float:
        return evaluator.choose(TrainingPairs(pairs.images, pairs.texts, total, ranks), validation).recall.mean

    pairs = starting_pairs(context, settings, model)
    start = {"images": pairs.images.clone(), "texts": pairs.texts.clone()}
    with shelf_for(settings.offload_snapshots) as shelf:
        unrolling = make_unrolling(
            model, context.model_settings.temperature, settings, shelf, ranks, inner_batch_size(settings, total)
        )
        cache, roles = SnapshotCache(), context.roles("expert_")

        def open_expert(index: int) -> Trajectory:
            return Trajectory(context.reader(roles[index]), cache, unrolling.part)

        distillation = Distillation(
            unrolling,
            pairs,
            total,
            Experts(len(roles), open_expert, lambda index: is_done(context.store, *context.order.inputs[roles[index]])),
            settings,
            seed=derive_seed(spec["seed"], "distillation", total),
            validate=validate,
            writer=context.writer,
            report=context.report,
            ranks=ranks,
            should_stop=context.should_stop,
        )
        try:
            facts = distillation.run()
        except ExpertAwaited as wait:
            raise InputAwaited(roles[wait.index]) from None
    best = distillation.best
    for name, rows in (("pairs", {"images": best.images, "texts": best.texts}), ("start", start)):
        context.writer.put(row_file_name(name, ranks.rank, ranks.world_size), tensors.encode(rows))
    if ranks.is_main:
        context.writer.put("rates.safetensors", tensors.encode({"log_rates": best.log_rates}))
        context.writer.put("curves.safetensors", tensors.encode(distillation.history.as_tensors()))
    return facts


def starting_pairs(context: StageContext, settings: DistillSettings, model: DualEncoder) -> SyntheticPairs:
    """This rank's rows."""
    count, seed, ranks = context.spec["pairs"], context.spec["seed"], context.ranks
    rows = range(*ranks.rows(count))
    if settings.initialise == "noise":
        size = context.dataset.image_size
        vectors = context.training_embeddings.vectors
        return start_from_noise(rows, (3, size, size), vectors, settings, seed, context.device)
    drawn: list[int] | None = None
    if settings.initialise == "kmeans":
        # Rank 0 decides: k-means may end in other centres on another kind of processor.
        indices, drawn = ranks.broadcast(_kmeans_pairs(context, count, seed) if ranks.is_main else ([], None))
    else:
        indices = random_indices(context.dataset.splits["train"].images, count, seed)
    own = slice(rows.start, rows.stop)
    images, captions, keys = load_pairs(context, indices[own], drawn and drawn[own], seed)
    texts = context.embeddings.lookup(captions).to(context.device)
    all_captions, all_keys = ([one for given in ranks.all_gather(part) for one in given] for part in (captions, keys))
    return start_from_real(model.normalise(images.to(context.device)), texts, settings, all_keys, all_captions)


def _kmeans_pairs(context: StageContext, count: int, seed: int) -> tuple[list[int], list[int] | None]:
    """Indices of images, and which caption of each."""
    candidates = load_candidates(context)
    indices = kmeans_indices(candidates.joint(), count, seed)
    return indices, captions_selected_by(candidates, indices)


def memory(experiment: Experiment, traces: TraceOf) -> Terms:
    """The largest budget, at the worst of unroll, check of differences, the pairs' own step and validation."""
    settings, trace = experiment.distill, traces(experiment.model, experiment.data.image_size)
    pairs = max(settings.pairs)
    rows, dropout = per_rank(min(settings.batch_size or pairs, pairs), settings.workers), settings.dropout
    step = Step(rows * trace.input_bytes, pixels=trace.pixels(min(CHUNK, pairs)))
    if settings.gradient == "full":
        step = replace(step, full=trace.full_graph(rows, dropout=dropout))
    elif settings.gradient == "finite_difference":
        checked = min(rows, per_rank(CHECKED_PAIRS, settings.workers))
        check = trace.second_order(checked, dropout=dropout, with_theta=True)
        keep = not drops_gradients(settings.zero_stage)
        first = trace.first_order(rows, training=dropout, of_batch=True, keep=keep)
        step = replace(step, first=first, check=check)
    else:
        with_theta = settings.gradient == "exact" or is_sharded(settings)
        step = replace(step, second=trace.second_order(rows, dropout=dropout, with_theta=with_theta))
    validation = student_step_memory(trace, experiment.evaluation, pairs, settings.workers)
    return distillation_memory(sizes_of(trace), step, pairs, trace.pair_bytes, settings, validation)


def traffic(experiment: Experiment, traces: TraceOf, data: DataSize | None) -> Traffic:
    """In: the snapshots that can be drawn, once each, and the first pairs. Out: checkpoints, the best pairs and the first."""
    settings, trace = experiment.distill, traces(experiment.model, experiment.data.image_size)
    starts = range(settings.max_start_epoch + 1)
    epochs = {*starts, *(start + settings.expert_epochs for start in starts)}
    drawn = min(experiment.experts.count * len(epochs), 2 * settings.outer_steps)
    reads = drawn * sum(trace.trainable_bytes.values())
    image = experiment.model.image
    if image.train == "full" and image.head.kind == "none" and image.weights != "random":
        # All experts share one first snapshot of the image tower: it is stored and read once.
        reads -= (experiment.experts.count - 1) * trace.trainable_bytes["image"]
    moments = 2 if settings.optimiser == "adam" else int(settings.momentum > 0)
    checkpoints = settings.outer_steps // settings.checkpoint_every * (2 + moments)
    writes = (checkpoints + 2) * max(settings.pairs) * trace.pair_bytes
    splits = ["val"] if settings.initialise == "noise" else ["train", "val"]
    reads = max(reads, 0) + weights_bytes(experiment.model, trace)
    return traffic_of(splits, data, trace, reads=reads, writes=writes)


STAGE = StageSpec(
    kind="distillation",
    version=3,
    title="distillations",
    section="distill",
    result=DistillationFacts,
    unit=unit,
    run=run,
    priority=4,
    wanted=wanted,
    milestone="distillations",
    stores_when_stopped=True,
    lower_for_memory="distill.batch_size or distill.inner_steps",
    memory=memory,
    traffic=traffic,
)
