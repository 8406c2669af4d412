"""What one unit of a kind takes of a rank's memory, from an experiment's description."""

import json
from dataclasses import replace

from vldd_dist.config.experiment import Experiment
from vldd_dist.config.model import ModelSettings
from vldd_dist.distillation.unrolling import CHECKED_PAIRS
from vldd_dist.errors import ConfigError
from vldd_dist.models.inputs import CHUNK
from vldd_dist.planner.memory_model import (
    Sizes,
    Step,
    Terms,
    distillation_memory,
    drops_gradients,
    evaluation_memory,
    expert_memory,
    is_sharded,
    peak,
    share,
)
from vldd_dist.planner.memory_trace import MemoryTrace

ESTIMATED_KINDS = ("expert", "distillation", "evaluation")


class Estimator:
    """Rehearses what it has not rehearsed yet.

    Args:
        text_dim: size of the caption embeddings.
    """

    def __init__(self, text_dim: int) -> None:
        self.text_dim = text_dim
        self._rehearsals: dict[str, MemoryTrace] = {}

    def trace(self, experiment: Experiment, model: ModelSettings | None = None) -> MemoryTrace:
        """Of the experiment's dual encoder, or of another."""
        model, image_size = model or experiment.model, experiment.data.image_size
        key = json.dumps([model.model_dump(mode="json"), image_size], sort_keys=True)
        if key not in self._rehearsals:
            self._rehearsals[key] = MemoryTrace(model, self.text_dim, image_size)
        return self._rehearsals[key]

    def memory(self, experiment: Experiment, kind: str) -> Terms:
        """The worst moment of a rank, by what takes the memory; of several budgets the largest, of several models the worst.

        Raises:
            ConfigError: the model cannot be made, or its passes cannot be rehearsed.
        """
        of_kind = {"expert": self._expert, "distillation": self._distillation, "evaluation": self._evaluation}[kind]
        try:
            return of_kind(experiment)
        except (RuntimeError, NotImplementedError, AssertionError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())[:160]
            raise ConfigError(
                f"model.image.model: a pass of {experiment.model.image.model} at {experiment.data.image_size} pixels "
                f"cannot be rehearsed ({reason}): no estimate of its memory"
            ) from error

    def _expert(self, experiment: Experiment) -> Terms:
        settings, trace = experiment.experts, self.trace(experiment)
        rows = share(settings.batch_size, settings.workers)
        step = Step(
            rows * trace.input_bytes,
            first=trace.first_order(rows, training=True, of_batch=False, keep=not drops_gradients(settings.zero_stage)),
            encoding=trace.encoding(experiment.evaluation.encode_batch),
        )
        return expert_memory(sizes_of(trace), step, settings)

    def _distillation(self, experiment: Experiment) -> Terms:
        settings, trace = experiment.distill, self.trace(experiment)
        pairs = max(settings.pairs)
        rows, dropout = share(min(settings.batch_size or pairs, pairs), settings.workers), settings.dropout
        step = Step(rows * trace.input_bytes, pixels=trace.pixels(min(CHUNK, pairs)))
        if settings.gradient == "full":
            step = replace(step, full=trace.full_graph(rows, dropout=dropout))
        elif settings.gradient == "finite_difference":
            checked = min(rows, share(CHECKED_PAIRS, settings.workers))
            check = trace.second_order(checked, dropout=dropout, with_theta=True)
            keep = not drops_gradients(settings.zero_stage)
            first = trace.first_order(rows, training=dropout, of_batch=True, keep=keep)
            step = replace(step, first=first, check=check)
        else:
            with_theta = settings.gradient == "exact" or is_sharded(settings)
            step = replace(step, second=trace.second_order(rows, dropout=dropout, with_theta=with_theta))
        validation = self._judged(experiment, trace, pairs, settings.workers)
        return distillation_memory(sizes_of(trace), step, pairs, trace.pair_bytes, settings, validation)

    def _evaluation(self, experiment: Experiment) -> Terms:
        pairs = max(experiment.distill.pairs)
        image = experiment.model.image
        found = []
        for name in [image.model, *experiment.evaluation.image_models]:
            other = image if name == image.model else image.model_copy(update={"model": name, "model_args": {}})
            trace = self.trace(experiment, experiment.model.model_copy(update={"image": other}))
            sizes = sizes_of(trace)
            beside = {"pairs": pairs * trace.pair_bytes, "standing by": sizes.trainable + sizes.frozen}
            found.append(beside | self._judged(experiment, trace, pairs, 1))
        return max(found, key=peak)

    def _judged(self, experiment: Experiment, trace: MemoryTrace, pairs: int, workers: int) -> Terms:
        settings = experiment.evaluation
        rows = share(min(settings.batch_size, pairs), workers)
        step = Step(
            rows * trace.input_bytes,
            first=trace.first_order(rows, training=True, of_batch=False, keep=True),
            encoding=trace.encoding(settings.encode_batch),
        )
        return evaluation_memory(sizes_of(trace), step, settings, workers)


def sizes_of(trace: MemoryTrace) -> Sizes:
    """Bytes of the dual encoder."""
    return Sizes(sum(trace.trainable_bytes.values()), trace.frozen_bytes, trace.module_bytes)
