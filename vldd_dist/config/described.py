"""What experiments and studies have in common, for code that treats both alike."""

from collections.abc import Mapping
from typing import Any, Protocol, Self

from vldd_dist.config.experiment import Experiment


class Described(Protocol):
    """An experiment or a study."""

    @property
    def name(self) -> str: ...

    @property
    def experiments(self) -> Mapping[str, Experiment]:
        """Variant -> its experiment; an experiment is its own only one, under its name."""
        ...

    def with_experiments(self, experiments: Mapping[str, Experiment]) -> Self:
        """The same with these in place of `experiments`."""
        ...

    def resolved(self) -> dict[str, Any]:
        """Every key of the experiment with its value, as JSON values; of a study: variant -> the same."""
        ...

    def tree(self) -> dict[str, Any]:
        """The description as one tree of JSON values, from which `read_description` makes it again."""
        ...
