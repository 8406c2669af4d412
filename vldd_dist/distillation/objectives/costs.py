"""What an objective's outer steps take, for a plan. A distillation does not ask for it, so that it changes no result."""

from typing import TYPE_CHECKING, ClassVar, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from vldd_dist.config.sections.distillation import DistillationSettings

SomeObjective = TypeVar("SomeObjective")


class PassCosts(Protocol):
    """Floating-point operations of a dual encoder's passes, for one pair or one image.

    Attributes:
        training: a forward and backward pass of the trained parts; if the image backbone is frozen, from its features on.
        encoding: a forward pass of an image through the image tower.
        pixels: a forward pass of an image through the image tower with fixed weights, and a backward pass to its pixels.
        freezes_backbone: whether the backbone is frozen, so that images enter the student as features.
        has_features: whether the features of the real images are computed once, before the distillation.
    """

    @property
    def training(self) -> float: ...

    @property
    def encoding(self) -> float: ...

    @property
    def pixels(self) -> float: ...

    @property
    def freezes_backbone(self) -> bool: ...

    @property
    def has_features(self) -> bool: ...

    def second_order(self, fixed: frozenset[str]) -> float:
        """An inner step that is differentiated twice: its gradient and the second derivatives along v, except those with
        respect to the tensors named in `fixed`."""
        ...


class ObjectiveCosts(Generic[SomeObjective]):
    """The costs of an objective with these settings. An objective that unrolls a student has `UnrolledCosts`.

    Attributes:
        reads_slices: whether a rank of several reads only its own elements of a snapshot.
    """

    reads_slices: ClassVar[bool] = False

    def __init__(self, objective: SomeObjective) -> None:
        self.objective = objective

    def step_flops(self, passes: PassCosts, settings: "DistillationSettings", pairs: int) -> float | None:
        """Floating-point operations of an outer step with M synthetic pairs; None if unknown. The loss of a student is counted
        in `PassCosts.training` and `second_order`, with the scores of a small batch. Optimisers, which have no matrix products,
        are not counted, nor is what an objective computes from features, such as covariances."""
        return None

    def teacher_flops(self, passes: PassCosts, experts: int) -> float:
        """Floating-point operations of the experts in an outer step, beside those of `step_flops`."""
        return 0

    def real_rows(self) -> int:
        """The number of real pairs that an outer step reads."""
        return 0

    def kept_numbers(self, image_dim: int, text_dim: int) -> int:
        """The number of float32 values that a distillation keeps in memory about all real pairs.

        Args:
            image_dim: size of an image's features.
            text_dim: size of a caption's embedding.
        """
        return 0

    def snapshots_read(self, experts: int, outer_steps: int) -> int:
        """The largest number of different expert snapshots that it reads. By default those that it holds."""
        return self.held_snapshots(experts)

    def snapshots_drawn(self, experts: int, outer_steps: int) -> int:
        """The number of snapshots that its start and its outer steps ask for, in which one may occur several times."""
        return self.snapshots_read(experts, outer_steps)

    def held_snapshots(self, experts: int) -> int:
        """The number of expert snapshots that a distillation holds in memory at once."""
        return 0
