"""What one unit reads from the store and writes to it, in bytes; a read counts once, for the node's cache keeps it."""

from dataclasses import dataclass

from vldd_dist.artifacts.units import UnitReader
from vldd_dist.config.experiment import Experiment
from vldd_dist.config.sections.model import ModelSettings, TextTowerSettings
from vldd_dist.cost_model.memory_trace import MemoryTrace
from vldd_dist.data.sources.base import SPLITS, Source
from vldd_dist.models.text.architecture import find_architecture

# Of a prepared image, measured on photographs and scenes: JPEG of quality 95, PNG up to 64 pixels; and its place in a tar.
JPEG_BYTES_A_PIXEL, PNG_BYTES_A_PIXEL, TAR_BYTES = 0.6, 2.0, 2560
CAPTIONS_AN_IMAGE = 5
# Where the text encoder's own size is not to be had: that of BERT base.
COMMON_TEXT_DIM = 768


@dataclass(frozen=True)
class DataSize:
    """The prepared dataset.

    Attributes:
        images: split -> how many.
        shards: split -> bytes.
        captions: in all splits.
        measured: read in the store; estimated otherwise.
    """

    images: dict[str, int]
    shards: dict[str, int]
    captions: int
    measured: bool

    @property
    def captions_an_image(self) -> float:
        return self.captions / max(sum(self.images.values()), 1)


@dataclass(frozen=True)
class Traffic:
    """Bytes of one unit.

    Attributes:
        data: of the dataset and its caption embeddings, among what is read; none when their size is not known.
        reads: everything else that is read.
        writes: all it writes, checkpoints included.
    """

    data: int | None
    reads: int
    writes: int


def data_size(experiment: Experiment, dataset: UnitReader | None) -> DataSize | None:
    """From the dataset's manifest, else from the description and a Karpathy file; none where neither tells."""
    if dataset is not None:
        splits = dataset.facts["splits"]
        shards, counts = ({name: given[what] for name, given in splits.items()} for what in ("bytes", "images"))
        return DataSize(counts, shards, sum(given["captions"] for given in splits.values()), measured=True)
    images, size = _images(experiment), experiment.data.image_size
    if images is None:
        return None
    an_image = TAR_BYTES + round(size**2 * (PNG_BYTES_A_PIXEL if size <= 64 else JPEG_BYTES_A_PIXEL))
    shards = {split: count * an_image for split, count in images.items()}
    return DataSize(images, shards, sum(images.values()) * CAPTIONS_AN_IMAGE, measured=False)


def _images(experiment: Experiment) -> dict[str, int] | None:
    """Split -> images; none where the source does not tell."""
    data = experiment.data
    source: Source = data.source
    own, limits = source.own_splits(), data.limits
    carved = {split: getattr(data.split, split) for split in SPLITS if split not in own}
    counts = {split: source.count(split, None if carved else limits[split]) for split in own}
    known = {split: count for split, count in counts.items() if count is not None}
    if len(known) < len(own):
        return None
    taken = {split: round(fraction * known["train"]) for split, fraction in carved.items()}
    known["train"] -= sum(taken.values())
    return {split: min(count, limits[split] or count) for split, count in (known | taken).items()}


def text_dim(settings: TextTowerSettings, embeddings: UnitReader | None) -> tuple[int, bool]:
    """Size of the caption embeddings, and whether it is known: in the store, in the encoder's folder or the hub's cache."""
    if embeddings is not None:
        return embeddings.facts["dim"], True
    found = find_architecture(settings, ask_hub=False)
    return (COMMON_TEXT_DIM, False) if found is None else (found.dim, True)


def traffic_of(splits: dict[str, bool], data: DataSize | None, trace: MemoryTrace, *, reads: int, writes: int) -> Traffic:
    """Of a unit that reads splits with the embeddings of their captions, and `reads` bytes of other things.

    Args:
        splits: split -> whether its images are read as features of a frozen backbone.
    """
    if data is None:
        return Traffic(None, reads, writes)
    texts = round(data.captions_an_image * 4 * trace.text_dim)
    found = 0
    for split, features in splits.items():
        count = data.images[split]
        images = count * (trace.input_bytes - 4 * trace.text_dim) if features else data.shards[split]
        found += images + count * texts
    return Traffic(found, reads, writes)


def weights_bytes(model: ModelSettings, trace: MemoryTrace) -> int:
    """Bytes of the image tower's starting weights, where they lie in the store."""
    return 0 if model.image.weights == "random" else trace.trainable_bytes["image"] + trace.frozen_bytes
