"""The experts that a distillation draws from. Each is opened when first drawn, because some may not be trained when the
distillation starts."""

from collections.abc import Callable

from vldd_dist.artifacts.tensor_files.trajectories import Trajectory


class ExpertAwaited(Exception):
    """The next outer step may draw an expert that is not committed yet. The distillation has stored a checkpoint.

    Attributes:
        index: the expert's index.
    """

    def __init__(self, index: int) -> None:
        super().__init__(f"expert {index} is not trained yet")
        self.index = index


class Experts:
    """The trajectories of the experts, by index.

    Args:
        count: number of experts, including those that are not trained yet.
        open_trajectory: expert index -> its trajectory; called for committed experts only.
        is_committed: expert index -> whether it is committed.
    """

    def __init__(
        self,
        count: int,
        open_trajectory: Callable[[int], Trajectory],
        is_committed: Callable[[int], bool] = lambda index: True,
    ) -> None:
        self.count = count
        self._open, self._is_committed = open_trajectory, is_committed
        self._opened: dict[int, Trajectory] = {}

    def __getitem__(self, index: int) -> Trajectory:
        if index not in self._opened:
            self._opened[index] = self._open(index)
        return self._opened[index]

    def first_missing(self, indices: range) -> int | None:
        """The first of these experts that is not committed; None if all are."""
        return next((index for index in indices if not self._is_committed(index)), None)
