"""Code that reads the shards of a split in order reads several at the same time, and each of them once."""

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vldd_dist.artifacts.units import UnitReader
from vldd_dist.config.sections.data import DataSettings
from vldd_dist.data.prepared import pieces
from vldd_dist.data.prepared.dataset import Dataset
from vldd_dist.data.prepared.embeddings import CaptionEmbeddings
from vldd_dist.data.prepared.image_features import ImageFeatures
from vldd_dist.data.prepared.pieces import Piece, Pieces
from vldd_dist.data.prepared.shard_index import Shard, SplitInfo
from vldd_dist.distillation.real_data.whitening import whitened_moments
from vldd_dist.pipeline.stages import publication
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.prepared_data import embed, prepare
from vldd_dist.testing.experiments.tiny import HANG_SECONDS

SCENES = DataSettings(source="scenes", train_images=23, val_images=4, test_images=4, image_size=16, shard_images=5)
DIM = 6
READS: dict[str, Callable[[Dataset, CaptionEmbeddings], Any]] = {
    "captions": lambda dataset, embeddings: dataset.captions("train"),
    "images by index": lambda dataset, embeddings: dataset.pick("train", [22, 0, 7]),
    "embeddings by index": lambda dataset, embeddings: embeddings.rows("train", [22, 0, 7], [4, 0, 2]),
    "all embeddings": lambda dataset, embeddings: embeddings.of_split("train"),
    "mean and deviation": lambda dataset, embeddings: embeddings.mean_and_std("train"),
    "nearest captions": lambda dataset, embeddings: embeddings.nearest(dataset, "train", torch.eye(DIM)),
}


def prepared(store: Store) -> tuple[Dataset, CaptionEmbeddings]:
    """A data set of five training shards, and random embeddings of its captions."""
    dataset = prepare(store, SCENES)
    captions = sorted({caption for split in dataset.splits for given in dataset.captions(split) for caption in given})
    vectors = torch.randn(len(captions), DIM, generator=torch.Generator().manual_seed(0))
    return dataset, embed(dataset, dict(zip(captions, vectors, strict=True)))


class Meeting:
    """A call waits until a second one has begun."""

    def __init__(self) -> None:
        self.begun, self.lock, self.second = 0, threading.Lock(), threading.Event()

    def wait(self) -> None:
        with self.lock:
            self.begun += 1
            if self.begun == 2:
                self.second.set()
        assert self.second.wait(HANG_SECONDS), "the shards are read one after the other"


@pytest.mark.parametrize("read", READS)
def test_shards_in_the_store_are_read_at_the_same_time(read: str, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, embeddings = prepared(store)
    meeting, read_object = Meeting(), UnitReader.read

    def read_together(self: UnitReader, name: str) -> bytes:
        meeting.wait()
        return read_object(self, name)

    monkeypatch.setattr(UnitReader, "read", read_together)
    READS[read](dataset, embeddings)


@pytest.mark.parametrize("both", [False, True])
def test_features_of_images_are_read_at_the_same_time(both: bool) -> None:
    meeting, generator = Meeting(), torch.Generator().manual_seed(0)

    class Source:
        def of(self, shard: Shard) -> Piece:
            meeting.wait()
            features, texts = torch.randn(2, shard.images, DIM, generator=generator)
            return {"features": features, "embeddings": texts, "first": torch.arange(shard.images + 1)}

    splits = {"train": SplitInfo.of([Shard("", str(number), 9, 9, 9 * number, "") for number in range(3)])}
    features = ImageFeatures(splits, Source())
    if both:
        whitened_moments(features, CaptionEmbeddings(splits, Source(), DIM), 1, 0.1)
        assert meeting.begun == 6
    else:
        assert features.of_split("train").shape == (27, DIM)


def test_a_publication_reads_each_shard_of_the_embeddings_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "CACHE_BYTES", 0)
    dataset, embeddings = prepared(store)
    shards, reads, read = dataset.splits["train"].shards, [], Pieces._read

    def recorded(self: Pieces, shard: Shard) -> Piece:
        reads.append(shard)
        return read(self, shard)

    monkeypatch.setattr(Pieces, "_read", recorded)
    before, after = torch.randn(2, 4, DIM, generator=torch.Generator().manual_seed(1))
    context: Any = SimpleNamespace(dataset=dataset, embeddings=embeddings)
    found = publication._nearest_captions(context, before, after)
    assert sorted(reads, key=shards.index) == shards
    alone = [embeddings.nearest(dataset, "train", vectors)[0] for vectors in (before, after)]
    assert [(one.before, one.after, one.similarity) for one in found] == [
        (of_before[0], *of_after) for of_before, of_after in zip(*alone, strict=True)
    ]
