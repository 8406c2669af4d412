"""Vision-language dataset distillation on one machine or a Ray cluster.

    from vldd_dist import load_distilled, train_on
    distilled = load_distilled("s3://bucket/distilled/NAME")
    train_on(distilled, image_tower, text_tower)

The names below are imported on first use, so that fetching a distilled set needs none of the training libraries.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vldd_dist.config.experiment import Experiment
    from vldd_dist.distilled_set.distilled import DistilledSet
    from vldd_dist.distilled_set.training import train_on
    from vldd_dist.models.recipe_text_encoder import build_text_encoder
    from vldd_dist.models.recipe_towers import build_towers
    from vldd_dist.store.location import Location

__all__ = ["DistilledSet", "Experiment", "build_text_encoder", "build_towers", "load_distilled", "train_on"]

_MODULE_OF = {
    "DistilledSet": "vldd_dist.distilled_set.distilled",
    "Experiment": "vldd_dist.config.experiment",
    "build_text_encoder": "vldd_dist.models.recipe_text_encoder",
    "build_towers": "vldd_dist.models.recipe_towers",
    "train_on": "vldd_dist.distilled_set.training",
}


def load_distilled(url: "Location") -> "DistilledSet":
    """Load and verify a distilled set from a folder or any fsspec URL. Raises StoreError, which names what is wrong."""
    from vldd_dist.distilled_set.distilled import DistilledSet

    return DistilledSet.load(url)


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(import_module(_MODULE_OF[name]), name)
    raise AttributeError(f"module 'vldd_dist' has no attribute {name!r}")
