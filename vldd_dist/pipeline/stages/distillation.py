"""A distillation: learns M synthetic pairs (`vldd_dist.distillation`)."""

from collections.abc import Iterable
from typing import Any

from vldd_dist.artifacts.tensor_files import tensors
from vldd_dist.artifacts.tensor_files.row_files import row_file_name
from vldd_dist.artifacts.tensor_files.tensor_cache import TensorCache
from vldd_dist.artifacts.tensor_files.trajectories import ShardSlices, Trajectory
from vldd_dist.artifacts.units import is_done
from vldd_dist.config.experiment import Experiment
from vldd_dist.config.sections.distillation import DistillationSettings
from vldd_dist.cost_model.distillation_steps import peak_of_distillation
from vldd_dist.cost_model.distillation_traffic import distillation_traffic
from vldd_dist.cost_model.io_model import DataSize, Traffic
from vldd_dist.cost_model.memory_model import Terms, peak
from vldd_dist.cost_model.memory_trace import TraceOf
from vldd_dist.cost_model.work_model import distillation_flops
from vldd_dist.distillation.checkpoints import earlier_choices
from vldd_dist.distillation.context import DistillationContext
from vldd_dist.distillation.expert_trajectories import ExpertAwaited, Experts
from vldd_dist.distillation.facts import DistillationFacts
from vldd_dist.distillation.initialisations import starting_pairs
from vldd_dist.distillation.outer_loop import Distillation
from vldd_dist.distillation.pairs import SyntheticPairs
from vldd_dist.evaluation.evaluator import TrainingPairs
from vldd_dist.models.dual_encoder import DualEncoder
from vldd_dist.models.image.backbone import refuse_backbone_dropout
from vldd_dist.pipeline.context import StageContext, read_tensors
from vldd_dist.pipeline.outcome import InputAwaited
from vldd_dist.pipeline.stage import Key, StageSpec, UnitGraph
from vldd_dist.pipeline.stages.shared.inputs import load_retrieval_split
from vldd_dist.pipeline.stages.shared.model_units import model_execution, model_input_units, model_spec, trace_of
from vldd_dist.pipeline.stages.shared.phases import (
    EARLIER,
    UnitPhase,
    experiments_of_phases,
    images_of_earlier_phases,
    joined_start,
)
from vldd_dist.pipeline.stages.shared.protocol import make_evaluator, protocol_of
from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.seeding import derive_seed


def unit(graph: UnitGraph, pairs: int, seed: int, phase: int | None = None) -> WorkUnit:
    """The distillation of M pairs with this seed.

    Args:
        phase: index of a phase, whose unit has the pairs of the phases up to it; None: the last phase.
    """
    experiment, distill = graph.experiment, graph.experiment.distill
    number = len(distill.of_phases()) - 1 if phase is None else phase
    counts = distill.pairs_of_phases(pairs)
    settings = distill.of_phases()[number].distillation_settings()
    spec: dict[str, Any] = {
        "settings": settings.identity(),
        "validation": protocol_of(experiment, experiment.model.image.model),
        "model": model_spec(experiment.model),
        "pairs": pairs,
        "seed": seed,
    }
    if distill.phases:
        spec |= {"pairs": sum(counts[: number + 1]), "phase": {"number": number, "pairs": counts[number]}}
    execution = {
        "encode_batch": experiment.evaluation.encode_batch,
        **model_execution(experiment.model),
        "settings": settings.model_dump(mode="json"),
    }
    inputs = {"dataset": graph.unit("dataset"), **model_input_units(graph, experiment.model)}
    needed, later = settings.objective.needed() | settings.initialise.needed(), frozenset[str]()
    if "experts" in needed:
        experts = {f"expert_{index:03d}": graph.unit("expert", index) for index in range(experiment.experts.count)}
        inputs |= experts
        later = frozenset(list(experts)[settings.objective.first_experts(len(experts)) :])
    if "expert_features" in needed:
        inputs["features"] = graph.unit("features", 0)
    if number > 0:
        inputs[EARLIER] = graph.unit("distillation", pairs, seed, number - 1)
    label = f"distillation {pairs} pairs seed {seed}"
    if distill.phases:
        label += f" phase {number + 1} of {len(counts)}"
    return STAGE.new(experiment, spec, inputs, execution, label, later=later)


def wanted(graph: UnitGraph) -> Iterable[Key]:
    """Each number of pairs with each seed."""
    return graph.experiment.distill.sets()


def run(context: StageContext) -> DistillationFacts:
    """Run the distillation, starting from the newest checkpoint if there is one."""
    spec, ranks, phase = context.spec, context.ranks, UnitPhase.of(context)
    settings = DistillationSettings.model_validate(context.execution["settings"])
    model = context.build_model(derive_seed(spec["seed"], "student"))
    if ranks.world_size > 1:
        # The students that validate the pairs are trained with their dropout, whatever the objective does.
        refuse_backbone_dropout(model)
        settings.objective.refuse_on_ranks(model)
    evaluator = make_evaluator(context, "validation", derive_seed(spec["seed"], "validation"))
    validation = load_retrieval_split(context, evaluator.build_student(), "val")

    def validate(pairs: SyntheticPairs) -> float:
        rows = phase.join("pairs", pairs.rows)
        return evaluator.choose(TrainingPairs(rows, spec["pairs"], ranks, pairs.shared), validation).recall.mean

    inputs = distillation_context(context, settings, model)
    pairs, rates = starting_pairs(inputs)
    start = pairs.clone().rows
    with settings.objective.open(inputs) as problem:
        distillation = Distillation(
            problem, pairs, rates, inputs, validate=validate, writer=context.writer, should_stop=context.should_stop
        )
        try:
            facts = distillation.run()
        except ExpertAwaited as wait:
            raise InputAwaited(context.roles("expert_")[wait.index]) from None
    for name, rows in (("pairs", distillation.best.rows), ("start", start)):
        context.writer.put(row_file_name(name, ranks.rank, ranks.world_size), tensors.encode(phase.join(name, rows)))
    if ranks.is_main:
        context.writer.put("shared.safetensors", tensors.encode(distillation.best.shared))
        context.writer.put("curves.safetensors", tensors.encode(distillation.history.as_tensors()))
    return facts.model_copy(update={"start": joined_start(context, facts.start)})


def distillation_context(context: StageContext, settings: DistillationSettings, model: DualEncoder) -> DistillationContext:
    """The unit's inputs in the form that the initialisation and the objective expect."""
    roles, store, phase = context.roles("expert_"), context.store, UnitPhase.of(context)

    def open_experts(slices: ShardSlices | None) -> Experts:
        cache = TensorCache()

        def open_expert(index: int) -> Trajectory:
            return Trajectory(context.reader(roles[index]), cache, slices)

        return Experts(len(roles), open_expert, lambda index: is_done(store, *context.order.inputs[roles[index]]))

    return DistillationContext(
        settings=settings,
        total=phase.pairs,
        seed=phase.seed,
        model=model,
        loss=context.model_settings.loss,
        embeddings=context.embeddings,
        image_features=context.image_features,
        report=context.report,
        ranks=context.ranks,
        open_experts=open_experts,
        expert_features=lambda: read_tensors(context.reader("features"), "features.safetensors"),
        open_dataset=lambda: context.dataset,
        taken=images_of_earlier_phases(context),
        choices=earlier_choices(context.writer, context.ranks),
    )


def memory(experiment: Experiment, traces: TraceOf) -> Terms:
    """See `peak_of_distillation`. With several phases, that of the phase with the highest peak, including the earlier phases'
    pairs."""
    trace, of_phases = trace_of(experiment, traces), []
    for earlier, phase in experiments_of_phases(experiment):
        terms = peak_of_distillation(phase, trace, earlier)
        of_phases.append(terms | {"earlier phases": earlier * trace.pair_bytes(earlier)} if earlier else terms)
    return max(of_phases, key=peak)


def traffic(experiment: Experiment, traces: TraceOf, data: DataSize | None, unit: WorkUnit | None) -> Traffic:
    """See `distillation_traffic`. For no unit in particular: of the most pairs and, with several phases, the one with the most
    traffic."""
    trace = trace_of(experiment, traces)
    if unit is not None:
        of_unit, earlier = _of_unit(experiment, unit)
        return distillation_traffic(of_unit, trace, data, earlier)
    of_phases = [distillation_traffic(phase, trace, data, earlier) for earlier, phase in experiments_of_phases(experiment)]
    return max(of_phases, key=lambda traffic: traffic.reads + traffic.writes)


def flops(experiment: Experiment, traces: TraceOf, data: DataSize, unit: WorkUnit) -> float | None:
    """The operations of the unit's distillation, or of its phase."""
    of_unit, earlier = _of_unit(experiment, unit)
    return distillation_flops(of_unit, trace_of(experiment, traces), data, of_unit.distill.pairs[0], earlier)


def _of_unit(experiment: Experiment, unit: WorkUnit) -> tuple[Experiment, int]:
    """The experiment with the settings of the unit's phase and its number of pairs alone; the pairs of the phases before it."""
    phase = unit.spec.get("phase", {"number": 0, "pairs": unit.spec["pairs"]})
    settings = experiment.distill.of_phases()[phase["number"]].model_copy(update={"pairs": [phase["pairs"]]})
    return experiment.model_copy(update={"distill": settings}), unit.spec["pairs"] - phase["pairs"]


STAGE = StageSpec(
    kind="distillation",
    version=9,
    title="distillations",
    section="distill",
    result=DistillationFacts,
    unit=unit,
    run=run,
    priority=4,
    wanted=wanted,
    milestone="distillations",
    stores_when_stopped=True,
    lower_for_memory="distill.batch_size or distill.objective.inner_steps (without inner steps: distill.tower_graph_mib or "
    "distill.objective.real_batch_size), for many pairs distill.pairs (or raise distill.workers)",
    memory=memory,
    traffic=traffic,
    flops=flops,
)
