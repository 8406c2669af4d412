"""Floating-point operations of one unit, from what a trace of its passes found for a pair. Neither losses nor optimisers are
counted, which take no products of matrices, nor the frozen text encoder, which sees each caption once."""

import math

from vldd_dist.config.distillation import DistillSettings
from vldd_dist.config.evaluation import EvaluationSettings
from vldd_dist.config.experiment import Experiment
from vldd_dist.cost_model.flop_trace import FlopTrace
from vldd_dist.cost_model.io_model import DataSize, has_features
from vldd_dist.cost_model.memory_trace import MemoryTrace
from vldd_dist.distillation.objectives.trajectory_matching import TrajectoryMatching
from vldd_dist.distillation.objectives.unrolled import UnrolledObjective
from vldd_dist.distillation.sampling import inner_batch_size
from vldd_dist.plugins import GRADIENTS


def expert_flops(experiment: Experiment, trace: MemoryTrace, data: DataSize) -> float:
    """Every training entry in each epoch, and the validation images after each. Images pass a frozen tower only where they are
    augmented."""
    settings, flops = experiment.experts, FlopTrace(trace)
    entries = data.images["train"] * (data.captions_an_image if settings.captions == "all" else 1)
    augmented = flops.encoding if trace.frozen_backbone and settings.augment is not None else 0
    validated = 0 if has_features(experiment.model) else (settings.epochs + 1) * data.images["val"] * flops.encoding
    return settings.epochs * entries * (flops.training + augmented) + validated


def student_flops(trace: MemoryTrace, settings: EvaluationSettings, pairs: int, validation: int) -> float:
    """Students on M pairs, one for each learning rate, and `validation` images encoded by each."""
    flops = FlopTrace(trace)
    one = settings.epochs * pairs * flops.training + validation * flops.encoding
    tower = pairs * flops.encoding if trace.frozen_backbone else 0
    return len(settings.learning_rates) * one + tower


def outer_step_flops(trace: MemoryTrace, settings: DistillSettings, pairs: int) -> float | None:
    """One outer step; none: of an objective that is not modelled.

    - `exact`: T - 1 gradients on the way there, T steps differentiated twice on the way back; `full` as many, in one graph;
      `tesla` the same, for the products along the parameters are not told apart.
    - differences: central 3 T - 1 gradients, forward 2 T.
    - steps before those that are differentiated: a gradient each; and a gradient of the outer loss on real pairs.
    - frozen tower: each pair that takes part goes through it and back to its pixels; images that keep their start do not.
    """
    objective = settings.objective
    if not isinstance(objective, UnrolledObjective):
        return None
    flops, steps, batch = FlopTrace(trace), objective.inner_steps, inner_batch_size(settings.batch_size, pairs)
    used = min(pairs, steps * batch)
    tower = used * (0 if "images" in settings.fixed() else flops.pixels) if trace.frozen_backbone else 0
    if GRADIENTS.load(objective.gradient).first_order_only:
        assert isinstance(objective, TrajectoryMatching), "other objectives refuse finite differences"
        passes = 3 * steps - 1 if objective.difference == "central" else 2 * steps
        return passes * batch * flops.training + tower
    real = objective.real_rows() * flops.training
    plain = steps - 1 + objective.plain_steps()
    return batch * (plain * flops.training + steps * flops.second_order(settings.fixed())) + tower + real


def distillation_flops(
    experiment: Experiment, trace: MemoryTrace, data: DataSize, pairs: int, earlier: int = 0
) -> float | None:
    """All outer steps with their validations, which see the pairs of `earlier` phases too; none: as of `outer_step_flops`."""
    settings = experiment.distill
    step = outer_step_flops(trace, settings, pairs)
    if step is None:
        return None
    images = 0 if has_features(experiment.model) else data.images["val"]
    # Of the start, too.
    validations = 1 + math.ceil(settings.outer_steps / settings.validate_every)
    return settings.outer_steps * step + validations * student_flops(trace, experiment.evaluation, earlier + pairs, images)
