"""Suggests settings to change if a unit does not fit its GPU. Each change is checked with the memory estimate, so that what is
suggested does fit."""

from collections.abc import Callable, Iterator
from typing import Any

from pydantic import ValidationError

from vldd_dist.config.base import Resources
from vldd_dist.config.experiment import Experiment
from vldd_dist.config.overrides import set_key
from vldd_dist.cost_model.memory_model import GIB, RESERVED, is_in_shards, peak
from vldd_dist.distillation.objectives.unrolled import UnrolledObjective
from vldd_dist.distillation.student.kinks import refuse_kinked_student
from vldd_dist.distillation.unroll import Gradient
from vldd_dist.errors import ConfigError
from vldd_dist.models.dual_encoder import DualEncoder
from vldd_dist.models.image.backbone import refuse_backbone_dropout
from vldd_dist.pipeline.stage import StageSpec
from vldd_dist.planner.estimator import Estimator
from vldd_dist.plugins import GRADIENTS

# The largest number of alternatives in a suggestion.
PROPOSED = 3
# Numbers of workers, and of halvings of a batch size, that are tried.
WORKERS = (2, 4, 8)
HALVINGS = 4
# Kinds of units that only encode -> the key that sets how much they encode at once.
ENCODED_AT_ONCE = {
    "embedding_group": "embeddings.batch_size",
    "feature_group": "evaluation.encode_batch",
    "application": "evaluation.encode_batch",
}

# Key -> value.
Change = dict[str, Any]
# Changes of the same kind. Each needs less memory than the one before it.
Series = list[Change]


def memory_limit(resources: Resources) -> int | None:
    """Bytes of GPU memory for a worker's tensors: its part of the GPU, less `RESERVED`. None without `gpu_memory_gib`."""
    if resources.gpu_memory_gib is None:
        return None
    return round(min(resources.gpus or 1, 1) * resources.gpu_memory_gib * GIB) - RESERVED


def suggest(experiment: Experiment, stage: StageSpec, limit: int, estimator: Estimator) -> str:
    """What to set so that a unit fits into `limit` bytes: up to three alternatives, each of which is enough; if there is none,
    several changes together; if they are not enough, a larger GPU."""
    return _Search(experiment, stage, limit, estimator).sentence()


class _Search:
    def __init__(self, experiment: Experiment, stage: StageSpec, limit: int, estimator: Estimator) -> None:
        self.experiment, self.stage, self.limit, self.estimator = experiment, stage, limit, estimator
        self.section = str(stage.section)

    def sentence(self) -> str:
        alternatives: list[str] = []
        groups = [kept for group in self._groups() if (kept := [series for series in group if series])]
        for group in groups:
            if fitting := next((change for series in group if (change := self._first_that_fits(series))), None):
                alternatives.append(f"{_said(fitting)} ({self._gib(fitting)})")
            if len(alternatives) == PROPOSED:
                break
        return f"set {', or '.join(alternatives)}" if alternatives else self._together([group[-1][-1] for group in groups])

    def _together(self, changes: list[Change]) -> str:
        """A suggestion to make several changes. Starting from the last, changes that are not needed are left out."""
        if not self._fits(_merged(changes)):
            return (
                f"no change tried is enough, not even {_said(_merged(changes))} together ({self._gib(_merged(changes))}): use "
                f"GPUs with more memory ({self.section}.resources) or a smaller model.image.model"
            )
        for change in reversed(changes):
            fewer = [other for other in changes if other is not change]
            if self._fits(_merged(fewer)):
                changes = fewer
        return f"set {_said(_merged(changes))} together ({self._gib(_merged(changes))})"

    def _first_that_fits(self, series: Series) -> Change | None:
        """The first change of the series that is enough, by binary search."""
        if not self._fits(series[-1]):
            return None
        low, high = 0, len(series) - 1
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if self._fits(series[middle]) else (middle + 1, high)
        return series[high]

    def _fits(self, change: Change) -> bool:
        size = self._size(change)
        return size is not None and size <= self.limit

    def _gib(self, change: Change) -> str:
        size = self._size(change)
        return "?" if size is None else f"{size / GIB:.1f} GiB of {(self.limit + RESERVED) / GIB:g}"

    def _size(self, change: Change) -> int | None:
        """The peak in bytes after a change; None if the description or the model does not allow the change."""
        tree = self.experiment.model_dump(mode="json")
        for key, value in change.items():
            set_key(tree, key, value)
        try:
            return peak(self.estimator.memory(Experiment.model_validate(tree), self.stage))
        except (ValidationError, ConfigError):
            return None

    def _groups(self) -> Iterator[list[Series]]:
        """Groups of changes, the least intrusive first. Of each group at most one change is suggested: that of the first series
        that has one that is enough. A series is empty if its setting cannot be lowered."""
        if self.stage.kind in ENCODED_AT_ONCE:
            yield [self._halved(ENCODED_AT_ONCE[self.stage.kind])]
            return
        image, distill = self.experiment.model.image, self.experiment.distill
        is_distillation, objective = self.stage.kind == "distillation", distill.objective
        is_unrolled = is_distillation and isinstance(objective, UnrolledObjective)
        if is_unrolled and objective.offload_snapshots == "none":
            yield [[{"distill.objective.offload_snapshots": "cpu"}]]
        if is_distillation and (image.freezes_backbone or not is_unrolled) and distill.tower_graph_mib:
            yield [[{"distill.tower_graph_mib": 0}]]
        checkpointing: Series = []
        on: Change = {"model.image.grad_checkpointing": True}
        # Not every model has it.
        if not image.grad_checkpointing and not image.freezes_backbone and self._size(on) is not None:
            checkpointing = [on]
        yield [checkpointing]
        if is_unrolled:
            gradient: Gradient = GRADIENTS.load(objective.gradient)
            gradients: Series = [{"distill.objective.gradient": "exact"}] if gradient.derivatives is None else []
            allowed = not gradient.first_order_only and objective.allows_finite_differences()
            if allowed and self._is_accepted(refuse_kinked_student):
                gradients.append({"distill.objective.gradient": "finite_difference"})
                gradients += [gradients[-1] | change for change in checkpointing]
            yield [gradients]
        if self.stage.kind in ("distillation", "expert"):
            yield self._more_workers()
        batch = self._halved(f"{self.section}.batch_size")
        validations = self._halved("evaluation.batch_size") if is_distillation else []
        yield [batch, validations, [one | other for one, other in zip(batch, validations, strict=False)]]

    def _more_workers(self) -> list[Series]:
        if not self._is_accepted(refuse_backbone_dropout):
            return []
        section = getattr(self.experiment, self.section)
        more = [{f"{self.section}.workers": n} for n in WORKERS if n > section.workers]
        sharded = [change | {f"{self.section}.sharding": "fsdp"} for change in more]
        return [more, [] if is_in_shards(section.sharding) else sharded]

    def _is_accepted(self, refuse: Callable[[DualEncoder], None]) -> bool:
        """Whether a run would accept the student after a change: `refuse` raises ConfigError if not."""
        try:
            refuse(self.estimator.trace(self.experiment.model, self.experiment.data.image_size).model())
        except ConfigError:
            return False
        return True

    def _halved(self, key: str) -> Series:
        section, name = key.split(".")
        size = getattr(getattr(self.experiment, section), name) or max(self.experiment.distill.pairs)
        return [{key: size >> halving} for halving in range(1, HALVINGS + 1) if size >> halving >= WORKERS[-1]]


def _merged(changes: list[Change]) -> Change:
    return {key: value for change in changes for key, value in change.items()}


def _said(change: Change) -> str:
    named = [f"{key}: {str(value).lower()}" for key, value in change.items()]
    return " and ".join([", ".join(named[:-1]), named[-1]] if len(named) > 1 else named)
