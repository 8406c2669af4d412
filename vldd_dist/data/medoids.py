"""Real pairs nearest to the centres of k-means, for a coreset and an initialisation of the distillation."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


def concatenated_features(image: Tensor, text: Tensor) -> Tensor:
    """(N, 2d): the image and text features (N, d) of each pair, each normalised to norm one, concatenated."""
    return torch.cat([functional.normalize(image.float()), functional.normalize(text.float())], dim=1)


def medoids(features: Tensor, count: int, seed: int) -> list[int]:
    """For each of `count` k-means centres, in their order, the nearest row that was not chosen for an earlier centre.

    Args:
        features: (N, d), N at least `count`. Distances are Euclidean, in float64.
        seed: of k-means++, 0 to 2**32 - 1; k-means is run once.
    """
    # Imported here, so that scikit-learn is loaded only if it is needed.
    from sklearn.cluster import KMeans

    points = features.double().numpy()
    squares = (points**2).sum(axis=1)
    chosen: list[int] = []
    for centre in KMeans(count, n_init=1, random_state=seed).fit(points).cluster_centers_:
        # Without the brackets numpy would first make 2 * points, a copy of all rows for each centre.
        distances = squares - 2 * (points @ centre)
        distances[chosen] = np.inf
        chosen.append(int(distances.argmin()))
    return chosen
