"""Estimates the memory of a rank for one unit of each kind, from an experiment's description."""

from dataclasses import dataclass
from functools import cache

from vldd_dist.config.experiment import Experiment
from vldd_dist.config.sections.model import ModelSettings
from vldd_dist.cost_model.memory_model import Terms
from vldd_dist.cost_model.memory_trace import MemoryTrace
from vldd_dist.errors import ConfigError, message_of
from vldd_dist.pipeline.stage import StageSpec, all_stages


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
        except (RuntimeError, NotImplementedError, AssertionError, TypeError, ValueError) as error:
            raise ConfigError(
                f"model.image.model: a pass of {experiment.model.image.model} at {experiment.data.image_size} pixels "
                f"cannot be traced ({message_of(error)}), so its memory is not estimated: choose another model, model_args or "
                "data.image_size"
            ) from error
