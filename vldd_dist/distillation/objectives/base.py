"""The interface of an objective: the settings of an outer problem."""

from abc import abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field, PositiveFloat
from torch import Tensor

from vldd_dist.config.base import HOW_TO_RUN, Plugin
from vldd_dist.distillation.context import DistillationContext
from vldd_dist.distillation.objectives.costs import ObjectiveCosts
from vldd_dist.distillation.objectives.outer_problem import OuterProblem
from vldd_dist.models.dual_encoder import DualEncoder
from vldd_dist.models.losses import Learned

if TYPE_CHECKING:
    from vldd_dist.config.experiment import Experiment


class Objective(Plugin):
    """The settings of an outer problem.

    Attributes:
        needs: inputs that it needs: "experts" (`DistillationContext.open_experts`), "real_batches" (real pairs at every step).
        advice: what to change when the loss diverges, for the error message.
        in_phases: whether it learns pairs for a student that was already trained on the pairs of earlier phases, so that
            `distill.phases` has a meaning.
        restarted: names of the shared tensors of `learned_shared` that each phase learns anew, because they only serve its own
            steps; a distilled set has those of the last phase. With others, phases are refused.
    """

    known_needs: ClassVar[frozenset[str]] = frozenset({"experts", "real_batches"})
    advice: ClassVar[str] = "lower distill.lr_images or distill.lr_texts"
    in_phases: ClassVar[bool] = False
    restarted: ClassVar[frozenset[str]] = frozenset()
    max_loss: Annotated[PositiveFloat | None, HOW_TO_RUN] = Field(
        None,
        description="The distillation stops as diverged when the mean loss of 20 outer steps exceeds it; null: only at NaN or "
        "infinity.",
    )

    @abstractmethod
    def open(self, context: DistillationContext) -> AbstractContextManager[OuterProblem]:
        """A context manager that yields the outer problem of a distillation and releases its resources afterwards. The problem
        may change the weights and the mode of `context.model`."""

    def in_short(self) -> str:
        """A short description for a table."""
        return self.name.replace("_", " ")

    def learned_shared(self) -> dict[str, Learned]:
        """The shared tensors that this objective learns beside the pairs, such as inner learning rates. Students do not use
        them: what they need beside the pairs belongs to the loss."""
        return {}

    def learned_numbers(self, shared: Mapping[str, Tensor]) -> dict[str, float]:
        """The values of these shared tensors, for the card of the distilled set."""
        return {}

    def conflicts(self, experiment: "Experiment") -> list[str]:
        """Which of these settings do not work with others of the experiment, one sentence each."""
        return []

    def wants_smooth_student(self) -> bool:
        """Whether a student whose activations have kinks must be refused (`student.kinks`)."""
        return False

    def refuse_on_ranks(self, model: DualEncoder) -> None:
        """Raises ConfigError for a model with which the result would depend on the number of ranks."""

    def trains_model(self) -> bool:
        """Whether the model also takes a training step on the real pairs of an outer step."""
        return False

    def moves_model(self) -> bool:
        """Whether the model's weights change between outer steps."""
        return self.trains_model()

    def moves_backbone(self, freezes_backbone: bool) -> bool:
        """Whether the weights of the model's image backbone change between outer steps."""
        return self.moves_model() and not freezes_backbone

    def used_pairs(self, pairs: int) -> int:
        """The largest number of M synthetic pairs that take part in an outer step."""
        return pairs

    def first_experts(self, count: int) -> int:
        """The number n such that the first n of `count` experts must be committed before a distillation starts."""
        return count if "experts" in self.needed() else 0

    def reached_epochs(self) -> frozenset[int]:
        """The epochs of an expert whose snapshots a distillation may read."""
        return frozenset()

    def costs(self) -> ObjectiveCosts[Any]:
        """What its outer steps take, for a plan."""
        return ObjectiveCosts(self)
