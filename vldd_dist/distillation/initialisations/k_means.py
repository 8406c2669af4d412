"""Real pairs nearest to the centres of k-means clusters."""

from typing import ClassVar

from vldd_dist.data.medoids import concatenated_features, medoids
from vldd_dist.distillation.context import DistillationContext
from vldd_dist.distillation.initialisations.base import Initialisation, Start, free_indices, start_from_real
from vldd_dist.seeding import derive_seed


class KMeansPairs(Initialisation):
    """The training pairs nearest to the M k-means centres of an expert's joint features (image and text features
    concatenated)."""

    needs: ClassVar[frozenset[str]] = frozenset({"expert_features"})
    name: str = "k_means"

    def start(self, context: DistillationContext) -> Start:
        """Raises ConfigError when there are fewer training images than pairs."""
        # Rank 0 chooses for all: on different kinds of machines the centres may differ in their last bits, and so the choice.
        if self.name not in context.choices:
            context.choices[self.name] = context.ranks.from_main(lambda: self._choose(context))
        return start_from_real(context, *context.choices[self.name])

    def _choose(self, context: DistillationContext) -> tuple[list[int], list[int]]:
        """Indices of M images, and for each the number of the caption whose features were used."""
        features = context.expert_features()
        free = free_indices(len(features["image"]), context.total, context.taken)
        joint = concatenated_features(features["image"], features["text"])
        if context.taken:
            joint = joint[list(free)]
        indices = [free[index] for index in medoids(joint, context.total, derive_seed(context.seed, "kmeans") % 2**32)]
        return indices, features["caption"][indices].tolist()
