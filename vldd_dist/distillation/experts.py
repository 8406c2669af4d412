"""The experts a run draws from: opened when first drawn, for some may be trained only while the run goes on."""

from collections.abc import Callable

from vldd_dist.artifacts.trajectories import Trajectory


class ExpertAwaited(Exception):
    """A run has come to an outer step that may draw an expert which is not committed yet; its checkpoint is stored.

    Attributes:
        index: of the expert.
    """

    def __init__(self, index: int) -> None:
        super().__init__(f"expert {index} is not trained yet")
        self.index = index


class Experts:
    """Args:
    count: all there will be.
    open_trajectory: of the expert with this index, which is committed.
    is_committed: whether that one is.
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
        """The first of these that is not committed."""
        return next((index for index in indices if not self._is_committed(index)), None)
