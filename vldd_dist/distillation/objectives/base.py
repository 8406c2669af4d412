"""The interfaces of an objective: its settings (`Objective`), and the outer problem that the outer loop calls
(`OuterProblem`)."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

from pydantic import Field
from torch import Tensor

from vldd_dist.config.base import Plugin, Rate
from vldd_dist.distillation.context import RunContext
from vldd_dist.distillation.pairs import SyntheticPairs
from vldd_dist.models.dual_encoder import DualEncoder
from vldd_dist.models.losses import Learned

if TYPE_CHECKING:
    from vldd_dist.config.experiment import Experiment
    from vldd_dist.config.sections.distillation import DistillationSettings


class PassCosts(Protocol):
    """Floating-point operations of a dual encoder's passes, for one pair or one image.

    Attributes:
        training: a forward and backward pass of the trained parts; if the image backbone is frozen, from its features on.
        encoding: a forward pass of an image through the image tower.
        pixels: a forward pass of an image through the image tower with fixed weights, and a backward pass to its pixels.
        frozen_backbone: whether the backbone is frozen, so that images enter the student as features.
        has_features: whether the features of the real images are computed once, before the run.
    """

    @property
    def training(self) -> float: ...

    @property
    def encoding(self) -> float: ...

    @property
    def pixels(self) -> float: ...

    @property
    def frozen_backbone(self) -> bool: ...

    @property
    def has_features(self) -> bool: ...

    def second_order(self, fixed: frozenset[str]) -> float:
        """An inner step that is differentiated twice: its gradient and the second derivatives along v, except those with
        respect to the tensors named in `fixed`."""
        ...


class OuterGradient(NamedTuple):
    """The outer loss of one step and its gradient.

    Attributes:
        terms: the terms of the outer loss by name, the same on all ranks; the loss is their sum.
        rows: (K,) int64, distinct indices, among this rank's rows, of the pairs that took part.
        row_gradients: the gradients (K, ...) of the row tensors by name, those of the loss over all ranks. Tensors in
            `SyntheticPairs.fixed` need none.
        shared_gradients: the gradients of the shared tensors by name, the same on all ranks. A tensor that is not named here
            does not move.
    """

    terms: dict[str, float]
    rows: Tensor
    row_gradients: dict[str, Tensor]
    shared_gradients: dict[str, Tensor]


class OuterProblem(ABC):
    """An objective during a run, on one of its ranks. All ranks call each method together. Every random draw of a step derives
    from the seed and the step, so that a resumed run ends in the same bits."""

    def begin(self, pairs: SyntheticPairs) -> None:  # noqa: B027
        """Called before the first outer step of a run, but not when it resumes.

        Raises:
            ConfigError: the settings do not work with this student.
        """

    def awaited(self, step: int) -> Exception | None:
        """The reason why an outer step cannot be taken yet, or None. The run stores a checkpoint, then raises it."""
        return None

    def prefetch(self, step: int) -> None:  # noqa: B027
        """Start to read, in the background, what an outer step will need."""

    @abstractmethod
    def gradient(self, step: int, pairs: SyntheticPairs) -> OuterGradient:
        """The outer loss at these pairs and its gradient; `step` counts from 0.

        Raises:
            DivergenceError: no gradient can be computed from these pairs any more.
        """

    def state(self) -> dict[str, Any]:
        """The problem's state as JSON values, which each checkpoint and the facts of the finished run hold."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Restore what `state` returned."""

    def figures(self) -> dict[str, Any]:
        """Fields of `events.Progress` to report beside the loss."""
        return {}


class Objective(Plugin):
    """The settings of an outer problem.

    Attributes:
        needs: inputs that the run needs: "experts" (`RunContext.open_experts`), "real_batches" (real pairs at every step).
        advice: what to change when the loss diverges, for the error message.
        in_phases: whether its student can go on from one that was trained on the pairs of earlier phases.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    advice: ClassVar[str] = "lower distill.lr_images or distill.lr_texts"
    in_phases: ClassVar[bool] = True
    max_loss: Rate | None = Field(
        None,
        description="The distillation stops as diverged when the mean loss of 20 outer steps exceeds it; null: only at NaN or "
        "infinity.",
    )

    @abstractmethod
    def open(self, context: RunContext) -> AbstractContextManager[OuterProblem]:
        """A context manager that yields the outer problem of a run and releases its resources afterwards. The problem may
        change the weights and the mode of `context.model`."""

    def needed(self) -> frozenset[str]:
        """Those of `needs` that are needed with these settings."""
        return self.needs

    def in_short(self) -> str:
        """A short description for a table."""
        return self.name.replace("_", " ")

    def learned_shared(self) -> dict[str, Learned]:
        """The shared tensors that this objective learns beside the pairs, such as inner learning rates."""
        return {}

    def learned_numbers(self, shared: Mapping[str, Tensor]) -> dict[str, float]:
        """The values of these shared tensors, for the card of the distilled set."""
        return {}

    def problems(self, experiment: "Experiment") -> list[str]:
        """What is wrong with these settings in this experiment, one sentence each."""
        return []

    def wants_smooth_student(self) -> bool:
        """Whether a student whose activations have kinks must be refused (`student.kinks`)."""
        return False

    def refuse_on_ranks(self, model: DualEncoder) -> None:
        """Raises ConfigError for a model with which the result would depend on the number of ranks."""

    def real_rows(self) -> int:
        """The number of real pairs that an outer step reads."""
        return 0

    def trains_model(self) -> bool:
        """Whether the model also takes a training step on these real pairs."""
        return False

    def moves_model(self) -> bool:
        """Whether the model's weights change between outer steps, so that its image tower has to follow them."""
        return self.trains_model()

    def kept_numbers(self, image_dim: int, text_dim: int) -> int:
        """The number of float32 values that a run keeps in memory about all real pairs.

        Args:
            image_dim: size of an image's features.
            text_dim: size of a caption's embedding.
        """
        return 0

    def used_pairs(self, pairs: int) -> int:
        """The largest number of M synthetic pairs that take part in an outer step."""
        return pairs

    def step_flops(self, costs: PassCosts, settings: "DistillationSettings", pairs: int) -> float | None:
        """Floating-point operations of an outer step with M synthetic pairs, for a plan; None if unknown. Losses and optimisers
        are not counted, because they multiply no matrices."""
        return None

    def teacher_flops(self, costs: PassCosts, experts: int) -> float:
        """Floating-point operations of the experts in an outer step, beside those of `step_flops`."""
        return 0

    def first_experts(self, count: int) -> int:
        """The number n such that the first n of `count` experts must be committed before a run starts."""
        return count if "experts" in self.needed() else 0

    def snapshots_read(self, experts: int, outer_steps: int) -> int:
        """The largest number of expert snapshots that a run reads; each is read once."""
        return 0

    def held_snapshots(self, experts: int) -> int:
        """The number of expert snapshots that a run holds in memory at once."""
        return 0

    def reached_epochs(self) -> frozenset[int]:
        """The epochs of an expert whose snapshots a run may read."""
        return frozenset()
