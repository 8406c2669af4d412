"""Bytes that one unit reads from the store and writes to it. Each object is counted once, because the node's cache keeps it; of
an expert's snapshots also what exceeds the cache (`distillation_traffic`)."""

from dataclasses import dataclass
from typing import Literal

from vldd_dist.artifacts.units import UnitReader
from vldd_dist.config.experiment import Experiment
from vldd_dist.config.sections.model import ModelSettings, TextTowerSettings
from vldd_dist.cost_model.memory_trace import MemoryTrace
from vldd_dist.data.facts import CaptionEmbeddingsFacts, DatasetFacts
from vldd_dist.data.preparation.groups import expected_images
from vldd_dist.models.text.architecture import find_architecture

# Bytes of a prepared image, measured on photographs and scenes: per pixel as JPEG of quality 95, and as PNG, which is used up
# to 64 pixels; and its headers in a tar.
JPEG_BYTES_PER_PIXEL, PNG_BYTES_PER_PIXEL, TAR_BYTES = 0.6, 2.0, 2560
# Used if the number of captions is unknown: that of Flickr8k, Flickr30k and COCO.
COMMON_CAPTIONS = 5
# Used if the size of the text encoder's embeddings is unknown: that of BERT base.
COMMON_TEXT_DIM = 768

# What a unit reads of a split: the images or their stored features, each with the embeddings of the captions; or only these.
SplitRead = Literal["images", "features", "captions"]


@dataclass(frozen=True)
class DataSize:
    """The size of the prepared dataset.

    Attributes:
        images: split -> number of images.
        shards: split -> bytes of its shards.
        captions: number of captions in all splits; of data that are not prepared, with `COMMON_CAPTIONS` an image if the source
            does not know it.
        measured: whether the sizes were read from the store, and not estimated.
    """

    images: dict[str, int]
    shards: dict[str, int]
    captions: int
    measured: bool

    @property
    def captions_per_image(self) -> float:
        return self.captions / max(sum(self.images.values()), 1)


@dataclass(frozen=True)
class Traffic:
    """Bytes that one unit reads and writes.

    Attributes:
        data: bytes read of the dataset and its caption embeddings; None if their size is unknown.
        reads: bytes read of everything else.
        writes: bytes written, including checkpoints.
    """

    data: int | None
    reads: int
    writes: int


def data_size(experiment: Experiment, dataset: UnitReader | None) -> DataSize | None:
    """The size of the dataset, from its manifest if it is prepared, else estimated from the description and the source. None if
    the source does not know its number of images."""
    if dataset is not None:
        splits = dataset.facts_as(DatasetFacts).splits
        counts = {name: split.images for name, split in splits.items()}
        shards = {name: split.bytes for name, split in splits.items()}
        return DataSize(counts, shards, sum(split.captions for split in splits.values()), measured=True)
    images, size = expected_images(experiment.data), experiment.data.image_size
    if images is None:
        return None
    image_bytes = TAR_BYTES + round(size**2 * (PNG_BYTES_PER_PIXEL if size <= 64 else JPEG_BYTES_PER_PIXEL))
    shards = {split: count * image_bytes for split, count in images.items()}
    captions = experiment.data.source.captions_per_image() or COMMON_CAPTIONS
    return DataSize(images, shards, sum(images.values()) * captions, measured=False)


def text_dim(settings: TextTowerSettings, embeddings: UnitReader | None) -> tuple[int, bool]:
    """Size of the caption embeddings, and whether it is known (from the store, the encoder's folder or the hub's cache) or
    assumed."""
    if embeddings is not None:
        return embeddings.facts_as(CaptionEmbeddingsFacts).dim, True
    architecture = find_architecture(settings, ask_hub=False)
    return (COMMON_TEXT_DIM, False) if architecture is None else (architecture.dim, True)


def stored_inputs(model: ModelSettings) -> SplitRead:
    """In which form a unit reads images that it does not augment."""
    return "features" if model.has_features else "images"


def traffic_of(splits: dict[str, SplitRead], data: DataSize | None, trace: MemoryTrace, *, reads: int, writes: int) -> Traffic:
    """The traffic of a unit.

    Args:
        splits: split -> what is read of it.
        reads: bytes read of other things.
        writes: bytes written.
    """
    if data is None:
        return Traffic(None, reads, writes)
    # Bytes of the caption embeddings of one image.
    texts = round(data.captions_per_image * 4 * trace.text_dim)
    data_bytes = 0
    for split, read in splits.items():
        count = data.images[split]
        features = count * trace.image_input_bytes
        data_bytes += {"images": data.shards[split], "features": features, "captions": 0}[read] + count * texts
    return Traffic(data_bytes, reads, writes)


def weights_bytes(model: ModelSettings, trace: MemoryTrace) -> int:
    """Bytes of the image tower's starting weights in the store; 0 for random weights, which are not stored."""
    return 0 if model.image.weights == "random" else trace.trainable_bytes["image"] + trace.frozen_bytes
