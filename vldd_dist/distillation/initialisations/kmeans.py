"""Real pairs near the centres of k-means."""

from typing import ClassVar

from vldd_dist.data.medoids import joint_features, medoids
from vldd_dist.distillation.context import RunContext
from vldd_dist.distillation.initialisations.base import Initialisation, Start, start_from_real
from vldd_dist.errors import ConfigError
from vldd_dist.seeding import derive_seed


class KMeansPairs(Initialisation):
    """The training pairs nearest to the M centres of an expert's joint features, image and text side by side."""

    needs: ClassVar[frozenset[str]] = frozenset({"features"})
    name: str = "kmeans"

    def start(self, context: RunContext) -> Start:
        """Raises ConfigError when there are fewer training images than pairs."""
        # On one rank: on another kind of machine the last bits of the centres may be others, and so the choice.
        return start_from_real(context, *context.ranks.broadcast(self._choose(context) if context.ranks.is_main else ([], [])))

    def _choose(self, context: RunContext) -> tuple[list[int], list[int]]:
        """Indices of images, and the number of the caption by which each was chosen."""
        features = context.features()
        if context.total > len(features["image"]):
            raise ConfigError(
                f"distill.pairs ({context.total}) is more than the training images ({len(features['image'])}): lower it"
            )
        joint = joint_features(features["image"], features["text"])
        indices = medoids(joint, context.total, derive_seed(context.seed, "kmeans") % 2**32)
        return indices, features["caption"][indices].tolist()
