"""What one unit reads from the store and writes to it, in bytes; a read counts once, for the node's cache keeps it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vldd_dist.artifacts.units import UnitReader
from vldd_dist.config.data import SCENES_BY_DEFAULT
from vldd_dist.config.experiment import Experiment
from vldd_dist.config.model import TextTowerSettings
from vldd_dist.data.sources import SPLITS
from vldd_dist.data.sources.karpathy import JSON_SPLITS
from vldd_dist.models.identity import text_folder
from vldd_dist.planner.memory_trace import MemoryTrace

# Of a prepared picture, measured on photographs and scenes: JPEG of quality 95, PNG up to 64 pixels; and its place in a tar.
JPEG_BYTES_A_PIXEL, PNG_BYTES_A_PIXEL, TAR_BYTES = 0.6, 2.0, 2560
CAPTIONS_A_PICTURE, CAPTION_BYTES = 5, 60
# Where the text encoder's own size is not to be had: that of BERT base.
COMMON_TEXT_DIM = 768


@dataclass(frozen=True)
class DataSize:
    """The prepared dataset.

    Attributes:
        shards: split -> bytes.
        captions: in all splits.
        measured: read in the store; estimated otherwise.
    """

    shards: dict[str, int]
    captions: int
    measured: bool


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
        shards = {name: sum(dataset.info(shard["name"]).size for shard in given["shards"]) for name, given in splits.items()}
        return DataSize(shards, sum(given["captions"] for given in splits.values()), measured=True)
    pictures, size = _pictures(experiment), experiment.data.image_size
    if pictures is None:
        return None
    a_picture = TAR_BYTES + round(size**2 * (PNG_BYTES_A_PIXEL if size <= 64 else JPEG_BYTES_A_PIXEL))
    shards = {split: count * a_picture for split, count in pictures.items()}
    return DataSize(shards, sum(pictures.values()) * CAPTIONS_A_PICTURE, measured=False)


def _pictures(experiment: Experiment) -> dict[str, int] | None:
    data = experiment.data
    limits = {split: getattr(data, f"{split}_images") for split in SPLITS}
    if data.source == "scenes":
        return {split: limits[split] or SCENES_BY_DEFAULT[split] for split in SPLITS}
    if data.source == "karpathy":
        try:
            entries = json.loads(Path(str(data.annotations)).read_bytes())["images"]
            found = {split: sum(entry["split"] in JSON_SPLITS[split] for entry in entries) for split in SPLITS}
        except (OSError, ValueError, KeyError, TypeError):
            # A worker says what is wrong with the file.
            return None
        return {split: min(count, limits[split] or count) for split, count in found.items()}
    return limits if all(limits.values()) else None


def text_dim(settings: TextTowerSettings, embeddings: UnitReader | None) -> tuple[int, bool]:
    """Size of the caption embeddings, and whether it is known: in the store, in the encoder's folder or the hub's cache."""
    if embeddings is not None:
        return embeddings.facts["dim"], True
    # Here, so that only plans load transformers.
    from transformers import AutoConfig

    source = str(text_folder(settings) or settings.model)
    try:
        config: Any = AutoConfig.from_pretrained(source, revision=settings.revision, local_files_only=True)
        return int(config.hidden_size), True
    except (OSError, ValueError, AttributeError):
        return COMMON_TEXT_DIM, False


def traffic(kind: str, experiment: Experiment, trace: MemoryTrace, data: DataSize | None) -> Traffic:
    """Of one unit of a kind; of several budgets the largest."""
    of_kind = {"expert": _expert, "distillation": _distillation, "evaluation": _evaluation}[kind]
    wanted, reads, writes = of_kind(experiment, trace)
    if experiment.model.image.weights != "random":
        reads += trace.trainable_bytes["image"] + trace.frozen_bytes
    if data is None:
        return Traffic(None, reads, writes)
    embeddings = data.captions * (4 * trace.text_dim + CAPTION_BYTES)
    return Traffic(sum(data.shards[split] for split in wanted) + embeddings, reads, writes)


def kept_epochs(experiment: Experiment) -> int:
    """How many snapshots an expert keeps."""
    settings, distill = experiment.experts, experiment.distill
    reach = distill.max_start_epoch + distill.expert_epochs
    return settings.epochs + 1 if settings.keep == "all" else len({*range(reach + 1), settings.epochs})


def _expert(experiment: Experiment, trace: MemoryTrace) -> tuple[list[str], int, int]:
    """Train and validation split in; snapshots out, and after each epoch, and before the first, a checkpoint."""
    settings, snapshot = experiment.experts, sum(trace.trainable_bytes.values())
    checkpoints = (settings.epochs + 1) * snapshot + (settings.epochs * snapshot if settings.momentum else 0)
    return ["train", "val"], 0, kept_epochs(experiment) * snapshot + checkpoints


def _distillation(experiment: Experiment, trace: MemoryTrace) -> tuple[list[str], int, int]:
    """The snapshots it can draw, once each, and the first pictures; out: checkpoints, the best pairs and the first ones."""
    settings = experiment.distill
    starts = range(settings.max_start_epoch + 1)
    epochs = {*starts, *(start + settings.expert_epochs for start in starts)}
    drawn = min(experiment.experts.count * len(epochs), 2 * settings.outer_steps)
    reads = drawn * sum(trace.trainable_bytes.values())
    if _starts_are_alike(experiment):
        reads -= (experiment.experts.count - 1) * trace.trainable_bytes["image"]
    moments = 2 if settings.optimiser == "adam" else int(settings.momentum > 0)
    checkpoints = settings.outer_steps // settings.checkpoint_every * (2 + moments)
    writes = (checkpoints + 2) * max(settings.pairs) * trace.pair_bytes
    return ["val"] if settings.initialise == "noise" else ["train", "val"], max(reads, 0), writes


def _starts_are_alike(experiment: Experiment) -> bool:
    """Whether all experts share one first snapshot of the image tower: it is stored and read once."""
    image = experiment.model.image
    return image.train == "full" and image.head.kind == "none" and image.weights != "random"


def _evaluation(experiment: Experiment, trace: MemoryTrace) -> tuple[list[str], int, int]:
    """Pairs in, and the splits that are measured; out: a manifest."""
    return ["val", "test"], max(experiment.distill.pairs) * trace.pair_bytes, 0
