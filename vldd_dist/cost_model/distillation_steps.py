"""The memory of a distillation: the sizes of its outer step, from traces of its passes, in the formulas of
`distillation_memory`."""

from dataclasses import replace

from vldd_dist.config.experiment import Experiment
from vldd_dist.cost_model.distillation_memory import (
    PairSize,
    distillation_memory,
    is_sharded,
    other_distillation_memory,
    used_pairs,
)
from vldd_dist.cost_model.memory_model import Step, Terms, drops_gradients, per_rank, sizes_of, student_step_memory
from vldd_dist.cost_model.memory_trace import MemoryTrace
from vldd_dist.distillation.objectives import Objective
from vldd_dist.distillation.objectives.unrolled import UnrolledObjective
from vldd_dist.distillation.student.unrolling import CHECKED_PAIRS
from vldd_dist.models.image.frozen_tower import largest_chunk

IMAGES = frozenset({"images"})


def peak_of_distillation(experiment: Experiment, trace: MemoryTrace, earlier: int = 0) -> Terms:
    """The peak for the largest number of pairs: the maximum over the unroll, the check of finite differences, the update of the
    pairs, and validation.

    Args:
        earlier: number of pairs of earlier phases, on which validation trains too.
    """
    settings = experiment.distill
    objective: Objective = settings.objective
    pairs = max(settings.pairs)
    pair = _pair_size(trace, settings.fixed())
    validation = student_step_memory(trace, experiment.evaluation, earlier + pairs, settings.workers)
    if earlier:
        # `UnitPhase.join` copies the pairs of all phases into one set.
        validation |= {"joined pairs": (earlier + pairs) * trace.pair_bytes}
    if isinstance(objective, UnrolledObjective):
        step, held = _unrolled_step(experiment, objective, trace), objective.costs().held_snapshots(experiment.experts.count)
        return distillation_memory(sizes_of(trace), step, pairs, pair, settings, validation, held)
    moves = objective.moves_tower(trace.frozen_backbone)
    sizes = replace(sizes_of(trace), tower=0 if moves else trace.tower_bytes)
    step = _matching_step(experiment, objective, trace, moves=moves)
    return other_distillation_memory(sizes, step, pairs, pair, settings, validation)


def _pair_size(trace: MemoryTrace, fixed: frozenset[str]) -> PairSize:
    features = trace.frozen_backbone and "images" in fixed
    used = trace.input_bytes if features else trace.pair_bytes
    kept = trace.input_bytes - trace.learned_input_bytes(IMAGES) if features else 0
    return PairSize(trace.pair_bytes, trace.learned_bytes(fixed), used, kept)


def _matching_step(experiment: Experiment, objective: Objective, trace: MemoryTrace, *, moves: bool) -> Step:
    """The sizes of an outer step without a student.

    Args:
        moves: whether the weights of the image tower change between outer steps.
    """
    costs = objective.costs()
    counts = objective.used_pairs(max(experiment.distill.pairs)), costs.real_rows()
    rows, real = (per_rank(count, experiment.distill.workers) for count in counts)
    return Step(
        real * (trace.input_bytes if experiment.model.has_features else trace.pair_bytes),
        first=trace.first_order(real, training=False, of_batch=False, keep=True) if objective.trains_model() else None,
        tower=trace.tower(largest_chunk(rows), moves=moves),
        kept=4 * costs.kept_numbers(trace.input_bytes // 4 - trace.text_dim, trace.text_dim),
    )


def _unrolled_step(experiment: Experiment, objective: UnrolledObjective, trace: MemoryTrace) -> Step:
    """The sizes of an outer step that unrolls a student."""
    settings = experiment.distill
    workers, fixed, pairs = settings.workers, settings.fixed(), max(settings.pairs)
    rows, dropout = per_rank(min(settings.batch_size or pairs, pairs), workers), objective.dropout
    tower = trace.tower(largest_chunk(used_pairs(pairs, settings))) if trace.frozen_backbone else None
    blending = objective.blending()
    blend = None if blending is None else blending.of_step(seed=0)
    step = Step(rows * trace.input_bytes, rows * trace.learned_input_bytes(fixed), tower=tower)
    if objective.costs().real_rows():
        step = _with_outer_loss(step, experiment, objective, trace)
    if objective.gradient == "full":
        return replace(step, full=trace.full_graph(rows, dropout=dropout, fixed=fixed, blend=blend))
    if objective.gradient == "finite_difference":
        checked = min(rows, per_rank(CHECKED_PAIRS, workers))
        check = trace.second_order(checked, dropout=dropout, with_theta=True, fixed=fixed, blend=blend)
        keep = not drops_gradients(settings.sharding)
        first = trace.first_order(rows, training=dropout, of_batch=True, keep=keep, fixed=fixed, blend=blend)
        return replace(step, first=first, check=check)
    with_theta = objective.gradient == "exact" or is_sharded(settings)
    second = trace.second_order(rows, dropout=dropout, with_theta=with_theta, fixed=fixed, blend=blend)
    return replace(step, second=second)


def _with_outer_loss(step: Step, experiment: Experiment, objective: UnrolledObjective, trace: MemoryTrace) -> Step:
    """The step with the sizes of an outer loss on real pairs."""
    # Each rank passes its part through a backbone. Of heads on features, the scores of all rows take the most.
    costs = objective.costs()
    real, given = costs.real_rows(), experiment.model.has_features
    part = per_rank(real, experiment.distill.workers)
    first = trace.first_order(real if trace.frozen_backbone else part, training=True, of_batch=False, keep=True)
    copies = max(costs.real_copies(), int(trace.frozen_backbone and not given))
    one = (trace.input_bytes if given else trace.pair_bytes) + copies * trace.input_bytes
    return replace(step, first=first, real=part * one)
