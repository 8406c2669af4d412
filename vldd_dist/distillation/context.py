"""What a run of distillation gives to its initialisation and its objective."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vldd_dist.artifacts.trajectories import ShardSlices
from vldd_dist.config.sections.distillation import DistillSettings
from vldd_dist.distillation.experts import Experts
from vldd_dist.events import Report
from vldd_dist.models.dual_encoder import DualEncoder
from vldd_dist.models.losses import Loss
from vldd_dist.sharding.ranks import SOLO, Ranks

if TYPE_CHECKING:
    # They load the libraries that read shards.
    from vldd_dist.data.prepared.dataset import Dataset
    from vldd_dist.data.prepared.embeddings import CaptionEmbeddings
    from vldd_dist.data.prepared.image_features import ImageFeatures


def _not_asked_for(*arguments: Any) -> Any:
    raise AssertionError("an objective or initialisation took an input that its `needs` does not name")


@dataclass(frozen=True)
class RunContext:
    """One run, on one of its ranks.

    Attributes:
        total: M pairs over all ranks.
        seed: every random draw derives from it.
        model: a dual encoder at its starting weights, on its device, the same on all ranks.
        embeddings: of the captions of the real pairs, with their dataset.
        image_features: of the real images by a frozen backbone; none where the images go through the backbone.
        open_experts: the experts' trajectories, read as far as a rank needs them (none: whole); for whoever needs "experts".
        features: joint features of the training images and of one caption each, `image` and `text` (N, d), and the number of
            that caption `caption` (N,), by a trained expert; for whoever needs "features".
        report: of progress.
    """

    settings: DistillSettings
    total: int
    seed: int
    model: DualEncoder
    loss: Loss
    embeddings: "CaptionEmbeddings"
    image_features: "ImageFeatures | None"
    report: Report
    ranks: Ranks = SOLO
    open_experts: Callable[[ShardSlices | None], Experts] = _not_asked_for
    features: Callable[[], dict[str, Tensor]] = _not_asked_for

    @property
    def dataset(self) -> "Dataset":
        return self.embeddings.dataset

    @property
    def device(self) -> torch.device:
        return self.model.mean.device

    @property
    def rows(self) -> range:
        """Numbers of this rank's pairs."""
        return range(*self.ranks.rows(self.total))
