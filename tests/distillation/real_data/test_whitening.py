"""The moments of real features compared with a loop over the images, of two shards whose images have one to three captions."""

import numpy as np
import torch

from vldd_dist.data.prepared.embeddings import CaptionEmbeddings
from vldd_dist.data.prepared.image_features import ImageFeatures
from vldd_dist.data.prepared.pieces import Piece
from vldd_dist.data.prepared.shard_index import Shard, SplitInfo
from vldd_dist.distillation.real_data.whitening import whitened_moments

# The numbers of captions of each shard's images.
COUNTS = [[1, 2, 3], [2, 1, 3, 1]]
SUBSETS, RIDGE = 5, 0.05


class InMemory:
    """The pieces of the shards, by their names."""

    def __init__(self, pieces: dict[str, Piece]) -> None:
        self.pieces = pieces

    def of(self, shard: Shard) -> Piece:
        return self.pieces[shard.name]


def inverse_root(matrix: np.ndarray) -> np.ndarray:
    u, s, v = np.linalg.svd(matrix + RIDGE * np.trace(matrix) / len(matrix) * np.eye(len(matrix)))
    return u @ np.diag(s**-0.5) @ v


def test_subset_k_pairs_each_image_with_its_caption_k_modulo_their_number() -> None:
    generator = torch.Generator().manual_seed(0)
    pieces: dict[str, Piece] = {}
    shards: list[Shard] = []
    images: list[np.ndarray] = []
    captions: list[np.ndarray] = []
    for number, counts in enumerate(COUNTS):
        features = torch.randn(len(counts), 2, generator=generator)
        texts = torch.randn(sum(counts), 3, generator=generator)
        first = torch.tensor([0, *np.cumsum(counts)])
        shards.append(Shard("", str(number), len(counts), sum(counts), len(images), ""))
        pieces[str(number)] = {"features": features, "embeddings": texts, "first": first}
        images.extend(features.double().numpy())
        captions.extend(own.double().numpy() for own in texts.split(counts))
    splits, source = {"train": SplitInfo.of(shards)}, InMemory(pieces)
    found = whitened_moments(ImageFeatures(splits, source), CaptionEmbeddings(splits, source, 3), SUBSETS, RIDGE)

    chosen = [np.stack([own[k % len(own)] for own in captions]) for k in range(SUBSETS)]
    centred = [texts - texts.mean(axis=0) for texts in chosen]
    others = len(images) - 1
    left = inverse_root(np.cov(np.stack(images).T))
    right = inverse_root(sum(texts.T @ texts for texts in centred) / (SUBSETS * others))
    centred_images = np.stack(images) - np.mean(images, axis=0)
    wanted = {
        "image": left,
        "text": right,
        "cross": np.stack([left @ (centred_images.T @ texts / others) @ right for texts in centred]),
    }
    for name, value in wanted.items():
        np.testing.assert_allclose(getattr(found, name).numpy(), value, rtol=1e-4, atol=1e-5, err_msg=name)
    np.testing.assert_allclose(found.means[0].numpy(), np.mean(images, axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.means[1].numpy(), [texts.mean(axis=0) for texts in chosen], rtol=1e-5, atol=1e-6)
