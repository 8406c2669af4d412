"""Floating-point operations of one unit, from the operations per pair that a trace of its passes counted. Not counted are
optimisers, which have no matrix products, and the frozen text encoder, because it encodes each caption once."""

from typing import NamedTuple

from vldd_dist.config.experiment import Experiment
from vldd_dist.config.sections.evaluation import EvaluationProtocol
from vldd_dist.config.sections.experts import ExpertSettings
from vldd_dist.cost_model.feature_trace import on_features
from vldd_dist.cost_model.flop_trace import FlopTrace
from vldd_dist.cost_model.io_model import DataSize
from vldd_dist.cost_model.memory_trace import MemoryTrace
from vldd_dist.distillation.objectives.base import Objective
from vldd_dist.retrieval.costs import measuring_flops


class Measuring(NamedTuple):
    """The operations of recall on a split.

    Attributes:
        once: those of preparing the split, which a unit does once: its images through a frozen backbone, unless their features
            are stored.
        each: those of every measurement.
    """

    once: float
    each: float


def measuring(trace: MemoryTrace, data: DataSize, split: str) -> Measuring:
    """The operations of recall on a split."""
    images = data.images[split]
    passes = FlopTrace(on_features(trace, trace.settings) if trace.freezes_backbone else trace)
    once = images * FlopTrace(trace).encoding if trace.freezes_backbone and not trace.has_features else 0
    return Measuring(once, measuring_flops(passes, images, images * data.captions_per_image))


def training_entries(settings: ExpertSettings, data: DataSize) -> float:
    """The number of image-caption pairs that an expert visits in an epoch."""
    return data.images["train"] * (data.captions_per_image if settings.captions == "all" else 1)


def expert_flops(experiment: Experiment, trace: MemoryTrace, data: DataSize) -> float:
    """The operations of training one expert: each training entry in each epoch, and recall on the validation split before the
    first epoch and after each. Images pass a frozen backbone only if they are augmented."""
    settings, flops = experiment.experts, FlopTrace(trace)
    augmented = flops.encoding if trace.freezes_backbone and settings.augment is not None else 0
    validation = measuring(trace, data, "val")
    trained = settings.epochs * training_entries(settings, data) * (flops.training + augmented)
    return trained + validation.once + (settings.epochs + 1) * validation.each


def student_flops(trace: MemoryTrace, settings: EvaluationProtocol, pairs: int, validation: float) -> float:
    """The operations of training a student on M pairs for each learning rate, and of measuring its recall once, which takes
    `validation` operations."""
    flops = FlopTrace(trace)
    one = settings.epochs * pairs * flops.training + validation
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
    once, each = measuring(trace, data, "val")
    validation = student_flops(trace, experiment.evaluation, earlier + pairs, each)
    return settings.outer_steps * step + once + settings.validations() * validation
