"""Floating-point operations of one unit, from what a trace of its passes found for a pair. Neither losses nor optimisers are
counted, which take no products of matrices, nor the frozen text encoder, which sees each caption once."""

import math

from vldd_dist.config.experiment import Experiment
from vldd_dist.config.sections.evaluation import EvaluationSettings
from vldd_dist.cost_model.flop_trace import FlopTrace
from vldd_dist.cost_model.io_model import DataSize
from vldd_dist.cost_model.memory_trace import MemoryTrace


def expert_flops(experiment: Experiment, trace: MemoryTrace, data: DataSize) -> float:
    """Every training entry in each epoch, and the validation images after each. Images pass a frozen tower only where they are
    augmented."""
    settings, flops = experiment.experts, FlopTrace(trace)
    entries = data.images["train"] * (data.captions_an_image if settings.captions == "all" else 1)
    augmented = flops.encoding if trace.frozen_backbone and settings.augment is not None else 0
    validated = 0 if experiment.model.has_features else (settings.epochs + 1) * data.images["val"] * flops.encoding
    return settings.epochs * entries * (flops.training + augmented) + validated


def student_flops(trace: MemoryTrace, settings: EvaluationSettings, pairs: int, validation: int) -> float:
    """Students on M pairs, one for each learning rate, and `validation` images encoded by each."""
    flops = FlopTrace(trace)
    one = settings.epochs * pairs * flops.training + validation * flops.encoding
    tower = pairs * flops.encoding if trace.frozen_backbone else 0
    return len(settings.learning_rates) * one + tower


def distillation_flops(
    experiment: Experiment, trace: MemoryTrace, data: DataSize, pairs: int, earlier: int = 0
) -> float | None:
    """All outer steps with their validations, which see the pairs of `earlier` phases too; none where the objective does not
    say what a step takes."""
    settings = experiment.distill
    step = settings.objective.step_flops(FlopTrace(trace), settings, pairs)
    if step is None:
        return None
    images = 0 if experiment.model.has_features else data.images["val"]
    # Of the start, too.
    validations = 1 + math.ceil(settings.outer_steps / settings.validate_every)
    return settings.outer_steps * step + validations * student_flops(trace, experiment.evaluation, earlier + pairs, images)
