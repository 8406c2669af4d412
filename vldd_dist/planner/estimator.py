"""What one unit of a kind takes of a rank's memory, from an experiment's description."""

from vldd_dist.config.experiment import Experiment
from vldd_dist.config.sections.model import ModelSettings
from vldd_dist.cost_model.memory_model import Terms
from vldd_dist.cost_model.memory_trace import MemoryTrace
from vldd_dist.errors import ConfigError
from vldd_dist.pipeline.stage import StageSpec, all_stages


def estimated_stages() -> list[StageSpec]:
    """Stages that say what their units take."""
    return [stage for stage in all_stages() if stage.memory is not None]


# (its settings as JSON, size of the caption embeddings, pixels) -> the trace of a dual encoder, which takes seconds.
_traces: dict[tuple[str, int, int], MemoryTrace] = {}


class Estimator:
    """Traces each dual encoder once in a process.

    Args:
        text_dim: size of the caption embeddings.
    """

    def __init__(self, text_dim: int) -> None:
        self.text_dim = text_dim

    def trace(self, model: ModelSettings, image_size: int) -> MemoryTrace:
        """Of a dual encoder on images of so many pixels."""
        key = (model.model_dump_json(), self.text_dim, image_size)
        if key not in _traces:
            _traces[key] = MemoryTrace(model, self.text_dim, image_size)
        return _traces[key]

    def memory(self, experiment: Experiment, stage: StageSpec) -> Terms:
        """The worst moment of a rank, by what takes the memory; of several budgets the largest, of several models the worst.

        Raises:
            ConfigError: the model cannot be made, or its passes cannot be traced.
        """
        assert stage.memory is not None
        try:
            return stage.memory(experiment, self.trace)
        except (RuntimeError, NotImplementedError, AssertionError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())[:160]
            raise ConfigError(
                f"model.image.model: a pass of {experiment.model.image.model} at {experiment.data.image_size} pixels "
                f"cannot be traced ({reason}): no estimate of its memory"
            ) from error
