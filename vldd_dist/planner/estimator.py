"""Estimates the memory of a rank for one unit of each kind, from an experiment's description."""

from dataclasses import dataclass
from functools import cache

from vldd_dist.config.experiment import Experiment
from vldd_dist.config.sections.model import ModelSettings
from vldd_dist.cost_model.memory_model import Terms
from vldd_dist.cost_model.memory_trace import MemoryTrace
from vldd_dist.errors import ConfigError, message_of
from vldd_dist.pipeline.stage import StageSpec, all_stages

# What a model, a loss or an objective raises if it does not work with tensors without values or with these sizes.
UNTRACED = (RuntimeError, NotImplementedError, AssertionError, TypeError, ValueError)


def why_untraced(experiment: Experiment, error: BaseException) -> str:
    """The sentence about an error of `UNTRACED` during a pass."""
    image, size = experiment.model.image.model, experiment.data.image_size
    loss, objective = experiment.model.loss.name, experiment.distill.objective.name
    return (
        f"a pass of {image} at {size} pixels with the loss {loss} and the objective {objective} cannot be traced "
        f"({message_of(error)}), so that what it takes is not known; if a run fails too, choose another of them, model_args or "
        "data.image_size"
    )


def estimated_stages() -> list[StageSpec]:
    """The stages that have a memory model."""
    return [stage for stage in all_stages() if stage.memory is not None]


# A trace takes seconds, and the many experiments of a study use few different models.
@cache
def _trace(described: str, text_dim: int, image_size: int) -> MemoryTrace:
    return MemoryTrace(ModelSettings.model_validate_json(described), text_dim, image_size)


@dataclass(frozen=True)
class Estimator:
    """Traces each dual encoder once in a process.

    Attributes:
        text_dim: size of the caption embeddings.
    """

    text_dim: int

    def trace(self, model: ModelSettings, image_size: int) -> MemoryTrace:
        """The trace of a dual encoder for images of this size in pixels."""
        return _trace(model.model_dump_json(), self.text_dim, image_size)

    def memory(self, experiment: Experiment, stage: StageSpec) -> Terms:
        """The memory of a rank at its peak, in bytes by name; the maximum over the numbers of pairs and the image models.

        Raises:
            ConfigError: the model cannot be built, or its passes cannot be traced.
        """
        assert stage.memory is not None
        try:
            return stage.memory(experiment, self.trace)
        except UNTRACED as error:
            raise ConfigError(why_untraced(experiment, error)) from error
