"""Floating-point operations of one unit, from the operations per pair that a trace of its passes counted. Losses and optimisers
are not counted, because they have no matrix products, nor is the frozen text encoder, because it encodes each caption once."""

from vldd_dist.config.experiment import Experiment
from vldd_dist.config.sections.evaluation import EvaluationProtocol
from vldd_dist.config.sections.experts import ExpertSettings
from vldd_dist.cost_model.flop_trace import FlopTrace
from vldd_dist.cost_model.io_model import DataSize
from vldd_dist.cost_model.memory_trace import MemoryTrace
from vldd_dist.distillation.objectives.base import Objective


def training_entries(settings: ExpertSettings, data: DataSize) -> float:
    """The number of image-caption pairs that an expert visits in an epoch."""
    return data.images["train"] * (data.captions_per_image if settings.captions == "all" else 1)


def expert_flops(experiment: Experiment, trace: MemoryTrace, data: DataSize) -> float:
    """The operations of training one expert: each training entry in each epoch, and encoding the validation images after each
    epoch. Images pass a frozen backbone only if they are augmented."""
    settings, flops = experiment.experts, FlopTrace(trace)
    augmented = flops.encoding if trace.freezes_backbone and settings.augment is not None else 0
    validated = 0 if experiment.model.has_features else (settings.epochs + 1) * data.images["val"] * flops.encoding
    return settings.epochs * training_entries(settings, data) * (flops.training + augmented) + validated


def student_flops(trace: MemoryTrace, settings: EvaluationProtocol, pairs: int, validation: int) -> float:
    """The operations of training a student on M pairs for each learning rate, each of which encodes `validation` images."""
    flops = FlopTrace(trace)
    one = settings.epochs * pairs * flops.training + validation * flops.encoding
    encoded_once = pairs * flops.encoding if trace.freezes_backbone else 0
    return len(settings.learning_rates) * one + encoded_once


def distillation_flops(experiment: Experiment, trace: MemoryTrace, data: DataSize, pairs: int, earlier: int) -> float | None:
    """The operations of all outer steps and validations. None if the objective does not count the operations of its steps.

    Args:
        pairs: number of pairs that are learned.
        earlier: number of pairs of earlier phases, on which validation trains too.
    """
    settings, passes = experiment.distill, FlopTrace(trace)
    objective: Objective = settings.objective
    costs = objective.costs()
    step = costs.step_flops(passes, settings, pairs)
    if step is None:
        return None
    step += costs.teacher_flops(passes, experiment.experts.count)
    images = 0 if experiment.model.has_features else data.images["val"]
    validation = student_flops(trace, experiment.evaluation, earlier + pairs, images)
    return settings.outer_steps * step + settings.validations() * validation
