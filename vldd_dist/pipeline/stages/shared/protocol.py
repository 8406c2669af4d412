"""How a unit's students are trained: the protocol in its spec, and the evaluator that its worker makes of it."""

from typing import Any

from vldd_dist.config.experiment import Experiment
from vldd_dist.config.sections.evaluation import EvaluationProtocol
from vldd_dist.evaluation.evaluator import Evaluator
from vldd_dist.pipeline.context import StageContext
from vldd_dist.seeding import derive_seed


def protocol_of(experiment: Experiment, image_model: str) -> dict[str, Any]:
    """How students with this image model are trained and chosen, as JSON values. It is part of the spec of every unit that
    trains a student."""
    return experiment.evaluation_on(image_model).identity()


def make_evaluator(context: StageContext, name: str, seed: int) -> Evaluator:
    """An evaluator that trains students by the protocol `spec[name]`. Their heads are initialised from the seed."""
    settings = context.settings(EvaluationProtocol, name)
    return Evaluator(lambda: context.build_model(derive_seed(seed, "head")), settings, context.model_settings.loss, seed)
