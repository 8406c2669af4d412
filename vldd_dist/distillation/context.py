"""The inputs that a distillation gives to its initialisation and its objective."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vldd_dist.artifacts.tensor_files.trajectories import ShardSlices
from vldd_dist.config.sections.distillation import DistillationSettings
from vldd_dist.distillation.expert_trajectories import Experts
from vldd_dist.events import SendReport
from vldd_dist.models.dual_encoder import DualEncoder
from vldd_dist.models.image.feature_backbone import FeatureBackbone
from vldd_dist.models.losses import Loss
from vldd_dist.seeding import derive_seed
from vldd_dist.sharding.ranks import SOLO, Ranks

if TYPE_CHECKING:
    # These modules load the libraries that read shards.
    from vldd_dist.data.prepared.dataset import Dataset
    from vldd_dist.data.prepared.embeddings import CaptionEmbeddings
    from vldd_dist.data.prepared.image_features import ImageFeatures


def _not_named(*arguments: Any) -> Any:
    raise AssertionError("an objective or initialisation used an input that its `needs` does not name: name it there")


def _no_dataset() -> Any:
    raise AssertionError("a distillation on features in memory has no images: take an objective and an initialisation without")


@dataclass(frozen=True, kw_only=True)
class DistillationContext:
    """One distillation, on one of its ranks.

    Attributes:
        total: M, the number of pairs over all ranks.
        seed: seed of the unit; every random draw derives from it.
        model: a dual encoder at its starting weights, on its device, the same on all ranks.
        embeddings: the embeddings of the real captions.
        image_features: the features of the real images by a frozen backbone; None if the images go through the backbone.
        report: reports progress.
        open_experts: opens the experts' trajectories, of which only the given slices are read (None: everything). Only for a
            plug-in whose `needs` has "experts".
        expert_features: joint features of the training images and of one caption of each, by a trained expert: `image` and
            `text` (N, d), and `caption` (N,), the number of that caption. Only for a plug-in whose `needs` has
            "expert_features".
        open_dataset: opens the real images and captions. A distillation on features in memory has none.
        taken: indices of the training images that pairs of earlier phases were initialised with, which no other may use.
        choices: results of an initialisation's long computations, by its name, as JSON values, the same on all ranks.
            Checkpoints keep them, so that a resumed distillation does not repeat them.
    """

    settings: DistillationSettings
    total: int
    seed: int
    model: DualEncoder
    loss: Loss
    embeddings: "CaptionEmbeddings"
    image_features: "ImageFeatures | None"
    report: SendReport
    ranks: Ranks = SOLO
    open_experts: Callable[[ShardSlices | None], Experts] = _not_named
    expert_features: Callable[[], dict[str, Tensor]] = _not_named
    open_dataset: Callable[[], "Dataset"] = _no_dataset
    taken: frozenset[int] = frozenset()
    choices: dict[str, Any] = field(default_factory=dict)

    def derived_seed(self, *purpose: str) -> int:
        """The seed of this distillation's random draws, or of those for one purpose."""
        return derive_seed(self.seed, "distillation", self.total, *purpose)

    @property
    def dataset(self) -> "Dataset":
        """The real images and captions. Raises AssertionError if there are none."""
        return self.open_dataset()

    @property
    def device(self) -> torch.device:
        return self.model.mean.device

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of a synthetic image: (3, H, W); or (F,), if the model takes features in place of images."""
        if isinstance(self.model.image_backbone, FeatureBackbone):
            return (self.model.image_backbone.num_features,)
        size = self.dataset.image_size
        return (3, size, size)

    @property
    def rows(self) -> range:
        """Indices of this rank's pairs."""
        return range(*self.ranks.rows(self.total))
