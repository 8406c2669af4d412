"""Settings of a small prepared data set, and embeddings of its captions."""

import torch

from vldd_dist.config.sections.data import DataSettings
from vldd_dist.data.prepared.dataset import Dataset
from vldd_dist.data.prepared.embeddings import CaptionEmbeddings
from vldd_dist.testing.experiments.prepared_data import embed

SCENES = DataSettings(source="scenes", train_images=23, val_images=4, test_images=4, image_size=16, shard_images=5)


def numbered(dataset: Dataset) -> CaptionEmbeddings:
    """Embeddings with one component each, the caption's number among all captions."""
    captions = sorted({caption for split in dataset.splits for given in dataset.captions(split) for caption in given})
    return embed(dataset, {caption: torch.tensor([float(number)]) for number, caption in enumerate(captions)})
