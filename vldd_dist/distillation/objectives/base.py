"""What an objective is: the outer problem, as the outer loop knows it."""

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
    from vldd_dist.config.sections.distillation import DistillSettings


class PassCosts(Protocol):
    """Floating-point operations of a dual encoder's passes, of one pair or image.

    Attributes:
        training: a forward and backward pass of what is trained; the features of a frozen image tower are given.
        encoding: an image through the image tower.
        pixels: an image through the image tower as a fixed one, and back to its pixels.
        frozen_backbone: images enter the student as features.
        has_features: those of real images are computed once for all, and given.
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
        """An inner step that is differentiated twice: its gradient and the products with it, without those of what is fixed."""
        ...


class OuterGradient(NamedTuple):
    """The outer loss of one step and its gradient.

    Attributes:
        terms: by name, the same on all ranks; the outer loss is their sum.
        rows: (K,) int64 distinct indices of this rank's pairs that took part.
        row_gradients: of row tensors (K, ...) by name, of the whole loss. Of those in `SyntheticPairs.fixed` none is needed.
        shared_gradients: of shared tensors by name, the same on all ranks. What is not named here is not moved.
    """

    terms: dict[str, float]
    rows: Tensor
    row_gradients: dict[str, Tensor]
    shared_gradients: dict[str, Tensor]


class OuterProblem(ABC):
    """An objective at work, on one of the ranks of a run. All ranks call it together; every draw of a step derives from the
    seed and the step, so that a resumed run ends in the same bits."""

    def begin(self, pairs: SyntheticPairs) -> None:  # noqa: B027
        """Called before the first outer step of a run, not where it resumes.

        Raises:
            ConfigError: the settings do not serve this student.
        """

    def awaited(self, step: int) -> Exception | None:
        """Why an outer step cannot be taken yet; the run stores where it is and ends with it. None: it can."""
        return None

    def prefetch(self, step: int) -> None:  # noqa: B027
        """Start to read what an outer step will need, in the background."""

    @abstractmethod
    def gradient(self, step: int, pairs: SyntheticPairs) -> OuterGradient:
        """Of the outer loss at these pairs; `step` counts from 0.

        Raises:
            DivergenceError: the pairs are of no more use.
        """

    def state(self) -> dict[str, Any]:
        """JSON values that a checkpoint keeps, and in the end the facts of the run."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Take what `state` gave."""

    def figures(self) -> dict[str, Any]:
        """What to report beside the loss: fields of `events.Progress`."""
        return {}


class Objective(Plugin):
    """The settings of an outer problem.

    Attributes:
        needs: inputs of the run: "experts" (`RunContext.open_experts`), "real_batches" (training pairs at every step).
        advice: what to change when the loss diverges.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    advice: ClassVar[str] = "lower distill.lr_images or distill.lr_texts"
    max_loss: Rate | None = Field(
        None,
        description="A loss whose mean over 20 outer steps is larger stops the run as diverged; none: only NaN and infinity.",
    )

    @abstractmethod
    def open(self, context: RunContext) -> AbstractContextManager[OuterProblem]:
        """The problem of a run, and what it holds open meanwhile. It may take `context.model` for itself."""

    def needed(self) -> frozenset[str]:
        """`needs`, or of them what these settings need."""
        return self.needs

    def in_short(self) -> str:
        """For a table."""
        return self.name.replace("_", " ")

    def learned_shared(self) -> dict[str, Learned]:
        """The shared tensors this objective learns beside the pairs, such as inner learning rates."""
        return {}

    def learned_numbers(self, shared: Mapping[str, Tensor]) -> dict[str, float]:
        """What its shared tensors say, in numbers for a card."""
        return {}

    def problems(self, experiment: "Experiment") -> list[str]:
        """What is wrong with these settings in this experiment, a sentence each."""
        return []

    def wants_smooth_student(self) -> bool:
        """Whether activations with a kink are to be refused (`kinks`)."""
        return False

    def refuse_on_ranks(self, model: DualEncoder) -> None:
        """Raises ConfigError for a model whose results would depend on the number of ranks."""

    def real_rows(self) -> int:
        """How many real pairs an outer step reads."""
        return 0

    def trains_model(self) -> bool:
        """Whether the model takes a training step on these real pairs, too."""
        return False

    def kept_numbers(self, image_dim: int, text_dim: int) -> int:
        """How many float32 a run keeps of all real pairs, from the sizes of an image's features and a caption's embedding."""
        return 0

    def used_pairs(self, pairs: int) -> int:
        """How many of M synthetic pairs take part in an outer step at most."""
        return pairs

    def step_flops(self, costs: PassCosts, settings: "DistillSettings", pairs: int) -> float | None:
        """Floating-point operations of an outer step with M synthetic pairs, for a plan; none: not known. Neither losses nor
        optimisers are counted, which take no products of matrices."""
        return None

    def first_experts(self, count: int) -> int:
        """How many of `count` experts, the first ones, must be committed before a run starts."""
        return count if "experts" in self.needed() else 0

    def snapshots_read(self, experts: int, outer_steps: int) -> int:
        """How many of the experts' snapshots a run reads at most, each once."""
        return 0

    def held_snapshots(self, experts: int) -> int:
        """How many of the experts' snapshots a run holds at once."""
        return 0

    def reached_epochs(self) -> frozenset[int]:
        """The epochs whose snapshots of an expert may be read."""
        return frozenset()
