"""The states of the experts that a student starts from and should reach."""

from collections.abc import Sequence
from typing import Protocol

from vldd_dist.distillation.expert_trajectories import Experts
from vldd_dist.distillation.student.unroller import Unroller
from vldd_dist.distillation.unroll import Tensors
from vldd_dist.models.parameters import TOWERS

# An epoch of the image tower and one of the text tower.
Epochs = tuple[int, int]


class States(Protocol):
    """The states of the experts by epoch.

    Attributes:
        towers: for each tensor of a state the index of its tower.
    """

    @property
    def towers(self) -> Sequence[int]: ...

    def at(self, expert: int, *moments: Epochs) -> list[Tensors]:
        """An expert's state at each of these moments, as the student's parameters or this rank's shards of them. All ranks must
        call it together."""
        ...

    def prefetch(self, expert: int, *moments: Epochs) -> None:
        """Start to read, in the background, what `at` will need."""
        ...


class Snapshots:
    """Implements `States` by the snapshots of the experts' training."""

    def __init__(self, experts: Experts, unroller: Unroller) -> None:
        self.experts, self.unroller, self.towers = experts, unroller, unroller.towers

    def at(self, expert: int, *moments: Epochs) -> list[Tensors]:
        read, theta = self.experts[expert].snapshot, self.unroller.theta
        return [theta(*(read(epoch, tower) for epoch, tower in zip(epochs, TOWERS, strict=True))) for epochs in moments]

    def prefetch(self, expert: int, *moments: Epochs) -> None:
        for epochs in moments:
            for epoch, tower in zip(epochs, TOWERS, strict=True):
                self.experts[expert].prefetch(epoch, (tower,))
