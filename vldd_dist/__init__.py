"""Vision-language dataset distillation at cluster scale.

    from vldd_dist import load_distilled
    distilled = load_distilled("s3://bucket/distilled/NAME")

The names below load what they need on first use: fetching a distilled set takes none of the training libraries.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vldd_dist.config.experiment import Experiment
    from vldd_dist.distilled_set.distilled import DistilledSet

__all__ = ["DistilledSet", "Experiment", "load_distilled"]


def load_distilled(url: str) -> "DistilledSet":
    """A published distilled set from any fsspec URL, verified. Raises StoreError naming what is missing or damaged."""
    from vldd_dist.distilled_set.distilled import DistilledSet

    return DistilledSet.load(url)


def __getattr__(name: str) -> Any:
    if name == "DistilledSet":
        from vldd_dist.distilled_set.distilled import DistilledSet

        return DistilledSet
    if name == "Experiment":
        from vldd_dist.config.experiment import Experiment

        return Experiment
    raise AttributeError(f"module 'vldd_dist' has no attribute {name!r}")
