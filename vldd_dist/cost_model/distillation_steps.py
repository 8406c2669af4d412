"""The memory of a distillation: the sizes of its outer step, from traces of its passes, in the formulas of
`distillation_memory`."""

from dataclasses import replace

from vldd_dist.config.experiment import Experiment
from vldd_dist.cost_model.distillation_memory import (
    FeatureMatchingStep,
    PairSize,
    RealPass,
    UnrolledStep,
    distillation_memory,
    is_sharded,
    other_distillation_memory,
    used_pairs,
)
from vldd_dist.cost_model.memory_model import Terms, drops_gradients, per_rank, sizes_of, student_step_memory
from vldd_dist.cost_model.memory_trace import FullGraph, MemoryTrace, SecondOrder
from vldd_dist.distillation.inner_batches import inner_batch_size
from vldd_dist.distillation.objectives import Objective
from vldd_dist.distillation.objectives.costs import ObjectiveCosts
from vldd_dist.distillation.objectives.unrolled import UnrolledObjective
from vldd_dist.distillation.student.unroller import CHECKED_PAIRS
from vldd_dist.distillation.unroll import Gradient
from vldd_dist.models.image.frozen_backbone import largest_chunk
from vldd_dist.plugins import GRADIENTS


def peak_of_distillation(experiment: Experiment, trace: MemoryTrace, earlier: int) -> Terms:
    """The peak for the largest number of pairs: the maximum over the unroll, the check of finite differences, the update of the
    pairs, and validation.

    Args:
        earlier: number of pairs of earlier phases, on which validation trains too.
    """
    settings = experiment.distill
    objective: Objective = settings.objective
    pairs = max(settings.pairs)
    pair = _pair_size(trace, settings.fixed(), pairs)
    validation = student_step_memory(trace, experiment.evaluation, earlier + pairs, settings.workers)
    if earlier:
        # `UnitPhase.join` copies the pairs of all phases into one set.
        validation |= {"joined pairs": (earlier + pairs) * trace.pair_bytes(earlier + pairs)}
    if isinstance(objective, UnrolledObjective):
        unrolled = _unrolled_step(experiment, objective, trace)
        held = objective.costs().held_snapshots(experiment.experts.count)
        return distillation_memory(sizes_of(trace), unrolled, pairs, pair, settings, validation, held)
    moves = objective.moves_backbone(trace.freezes_backbone)
    sizes = replace(sizes_of(trace), frozen_backbone=0 if moves else trace.frozen_backbone_bytes)
    step = _feature_matching_step(experiment, objective, trace, moves=moves)
    return other_distillation_memory(sizes, step, pairs, pair, settings, validation)


def objectives_without_costs(experiment: Experiment) -> list[str]:
    """The names of the objectives, of all phases, whose `costs` do not say what a step takes, or read real pairs without saying
    how many. The peak of these distillations is only a lower bound."""
    names = []
    for phase in experiment.distill.of_phases():
        objective: Objective = phase.objective
        costs = objective.costs()
        says_nothing = type(costs).step_flops is ObjectiveCosts.step_flops
        has_real = costs.real_rows() or costs.kept_numbers(1, 1) or "real_batches" not in objective.needed()
        if says_nothing or not has_real:
            names.append(objective.name)
    return names


def _pair_size(trace: MemoryTrace, fixed: frozenset[str], pairs: int) -> PairSize:
    features, whole = trace.freezes_backbone and "images" in fixed, trace.pair_bytes(pairs)
    used = trace.input_bytes(pairs) if features else whole
    return PairSize(whole, trace.pair_bytes(pairs, fixed), used, kept=trace.image_input_bytes if features else 0)


def _feature_matching_step(
    experiment: Experiment, objective: Objective, trace: MemoryTrace, *, moves: bool
) -> FeatureMatchingStep:
    """The sizes of an outer step without a student.

    Args:
        moves: whether the weights of the image backbone change between outer steps.
    """
    costs = objective.costs()
    counts = objective.used_pairs(max(experiment.distill.pairs)), costs.real_rows()
    rows, real = (per_rank(count, experiment.distill.workers) for count in counts)
    return FeatureMatchingStep(
        real * (trace.real_input_bytes if experiment.model.has_features else trace.real_bytes),
        training=trace.first_order(real, training=False, of_batch=False, keep=True) if objective.trains_model() else None,
        backbone=trace.backbone_pass(largest_chunk(rows), moves=moves),
        kept=4 * costs.kept_numbers(trace.image_input_bytes // 4, trace.text_dim),
    )


def _unrolled_step(experiment: Experiment, objective: UnrolledObjective, trace: MemoryTrace) -> UnrolledStep:
    """The sizes of an outer step that unrolls a student."""
    settings = experiment.distill
    workers, fixed, pairs = settings.workers, settings.fixed(), max(settings.pairs)
    rows, dropout = per_rank(inner_batch_size(settings.batch_size, pairs), workers), objective.dropout
    blending = objective.blending()
    blend = None if blending is None else blending.of_step(seed=0)
    passes: FullGraph | SecondOrder | int
    check = None
    gradient: Gradient = GRADIENTS.load(objective.gradient)
    if gradient.derivatives is None:
        passes = trace.full_graph(rows, dropout=dropout, fixed=fixed, blend=blend)
    elif gradient.first_order_only:
        checked = min(rows, per_rank(CHECKED_PAIRS, workers))
        check = trace.second_order(checked, dropout=dropout, with_theta=True, fixed=fixed, blend=blend)
        keep = not drops_gradients(settings.sharding)
        passes = trace.first_order(rows, training=dropout, of_batch=True, keep=keep, fixed=fixed, blend=blend)
    else:
        with_theta = gradient.update_adjoint or is_sharded(settings)
        passes = trace.second_order(rows, dropout=dropout, with_theta=with_theta, fixed=fixed, blend=blend)
    return UnrolledStep(
        rows * trace.input_bytes(pairs),
        passes,
        learned=rows * trace.input_bytes(pairs, fixed),
        check=check,
        backbone=trace.backbone_pass(largest_chunk(used_pairs(pairs, settings))) if trace.freezes_backbone else None,
        real=_real_pass(experiment, objective, trace) if objective.costs().real_rows() else None,
    )


def _real_pass(experiment: Experiment, objective: UnrolledObjective, trace: MemoryTrace) -> RealPass:
    """The sizes of an outer loss on real pairs."""
    # Each rank passes its part through a backbone. Of heads on features, the scores of all rows take the most.
    costs = objective.costs()
    real, given = costs.real_rows(), experiment.model.has_features
    part = per_rank(real, experiment.distill.workers)
    first = trace.first_order(real if trace.freezes_backbone else part, training=True, of_batch=False, keep=True)
    copies = max(costs.real_copies(), int(trace.freezes_backbone and not given))
    one = (trace.real_input_bytes if given else trace.real_bytes) + copies * trace.real_input_bytes
    return RealPass(part * one, first)
