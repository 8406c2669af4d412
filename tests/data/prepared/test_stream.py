"""Epochs of a prepared split: their order, their batches, and the threads that read them."""

import threading
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.data.prepared.epochs import assert_same, epoch
from tests.data.prepared.prepared_sets import SCENES, numbered
from vldd_dist.data.prepared.batches.stream import BATCHES_AHEAD, WINDOW_SHARDS, EpochStream, PairBatch, StreamSettings
from vldd_dist.data.prepared.dataset import Dataset, EncodedImage
from vldd_dist.data.prepared.in_memory import in_memory
from vldd_dist.data.prepared.shard_index import Shard
from vldd_dist.errors import ConfigError
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.prepared_data import prepare

# The training split in twelve shards, so in three windows.
SMALL_SHARDS = SCENES.model_copy(update={"shard_images": 2})


def stream_of(dataset: Dataset, **settings: Any) -> Generator[PairBatch, None, None]:
    """An epoch that can be closed."""
    batches = iter(EpochStream(numbered(dataset), dataset, "train", StreamSettings(**settings), seed=0, epoch=0))
    assert isinstance(batches, Generator)
    return batches


def test_an_epoch_shows_every_image_once_with_one_of_its_captions(store: Store) -> None:
    dataset = prepare(store, SCENES)
    embeddings, images = numbered(dataset), dataset.images("train")
    batches = epoch(dataset, augment=None)
    indices = torch.cat([batch.entries for batch in batches])
    assert sorted(indices.tolist()) == list(range(23))
    assert [len(batch.texts) for batch in batches] == [4, 4, 4, 4, 4, 3]
    for batch in batches:
        assert torch.equal(batch.images, images[batch.entries])
        for text, index in zip(batch.texts, batch.entries.tolist(), strict=True):
            own = embeddings.rows("train", [index] * 5, list(range(5)))
            assert text in own
    assert len({float(text) for batch in batches for text in batch.texts}) > 4


def test_an_epoch_of_all_captions_shows_every_caption_once_with_its_image(store: Store) -> None:
    dataset = prepare(store, SCENES)
    embeddings, images, captions = numbered(dataset), dataset.images("train"), dataset.captions("train")
    vectors, image_of = embeddings.of_split("train")
    batches = epoch(dataset, augment=None, captions="all")
    entries = torch.cat([batch.entries for batch in batches])
    assert sorted(entries.tolist()) == list(range(len(vectors))) == list(range(sum(map(len, captions))))
    assert [len(batch.texts) for batch in batches[:-1]] == [4] * (len(batches) - 1)
    for batch in batches:
        assert torch.equal(batch.images, images[image_of[batch.entries]])
        assert torch.equal(batch.texts, vectors[batch.entries])
    # The entries of one image are not next to each other.
    assert len({index // 5 for index in entries[:25].tolist()}) > 10


def test_of_all_captions_the_order_and_the_changes_depend_on_seed_and_epoch_only(store: Store) -> None:
    dataset = prepare(store, SCENES)
    plain = epoch(dataset, captions="all")
    assert_same(plain, epoch(dataset, captions="all", readers=3))
    entries, pictures = torch.cat([one.entries for one in plain]), torch.cat([one.images for one in plain])
    other = torch.cat([one.entries for one in epoch(dataset, captions="all", epoch=3)])
    assert entries.tolist() != other.tolist()
    _, image_of = numbered(dataset).of_split("train")
    of_first = pictures[image_of[entries] == 0]
    assert len(of_first) == 5
    assert len({picture.numpy().tobytes() for picture in of_first}) == 5, "each entry is augmented independently"
    here = epoch(dataset, captions="all", rows=lambda size: (1, size))
    assert all(torch.equal(part.images, whole.images[1:]) for part, whole in zip(here, plain, strict=True))


def test_the_order_depends_on_seed_and_epoch_only(store: Store) -> None:
    dataset = prepare(store, SCENES)
    plain = epoch(dataset)
    for readers in (2, 5):
        assert_same(plain, epoch(dataset, readers=readers))
    for change in ({"seed": 7}, {"epoch": 3}):
        other = epoch(dataset, **change)
        assert torch.cat([b.entries for b in other]).tolist() != torch.cat([b.entries for b in plain]).tolist()


def test_a_window_mixes_shards(store: Store) -> None:
    order = torch.cat([batch.entries for batch in epoch(prepare(store, SCENES))])
    first_window = order[: 5 * (WINDOW_SHARDS - 1)]
    assert len({index // 5 for index in first_window[:5].tolist()}) > 1


def test_more_readers_than_shards_are_refused(store: Store) -> None:
    with pytest.raises(ConfigError, match=r"experts.readers \(6\) is more than the shards of the train split \(5\)"):
        epoch(prepare(store, SCENES), readers=6)


@pytest.mark.parametrize("captions", ["one", "all"])
def test_batches_that_are_skipped_change_nothing_in_the_others(store: Store, captions: str) -> None:
    dataset = prepare(store, SMALL_SHARDS)
    whole = epoch(dataset, captions=captions)
    for skip in range(0, len(whole) + 1, 1 if captions == "one" else 4):
        assert_same(epoch(dataset, captions=captions, skip=skip), whole[skip:])


def test_the_next_window_is_read_while_one_is_used(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    of_epoch, read_shard = stream_of(prepare(store, SMALL_SHARDS), batch_size=1), Dataset.read_shard
    read, both = [], threading.Event()

    def counting(self: Dataset, shard: Shard) -> list[EncodedImage]:
        read.append(shard.name)
        if len(read) == 2 * WINDOW_SHARDS:
            both.set()
        return read_shard(self, shard)

    monkeypatch.setattr(Dataset, "read_shard", counting)
    with closing(of_epoch) as batches:
        next(batches)
        assert both.wait(60), f"only {len(read)} shards are read before the next batch is asked for"
    assert len(read) == 2 * WINDOW_SHARDS


def test_the_next_batches_are_ready_before_they_are_asked_for(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    of_epoch = stream_of(prepare(store, SCENES), batch_size=4)
    stacked, ready, stack = [], threading.Event(), torch.stack

    def counting(tensors: list[Tensor]) -> Tensor:
        stacked.append(len(tensors))
        # Two for each batch: images and texts.
        if len(stacked) == 2 * (1 + BATCHES_AHEAD):
            ready.set()
        return stack(tensors)

    monkeypatch.setattr(torch, "stack", counting)
    with closing(of_epoch) as batches:
        next(batches)
        assert ready.wait(60), f"only {len(stacked) // 2} batches are put together"


def test_rows_of_features_are_not_tasks_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    images, texts, tasks, submit = torch.rand(20, 3), torch.rand(20, 2), [], ThreadPoolExecutor.submit
    embeddings, features = in_memory(images, texts, torch.arange(21))
    monkeypatch.setattr(ThreadPoolExecutor, "submit", lambda self, *call: tasks.append(call) or submit(self, *call))
    batches = list(EpochStream(embeddings, features, "train", StreamSettings(10), seed=1, epoch=2))
    assert len(tasks) == 3, "one for the shard, and one for each of the two batches"
    for batch in batches:
        assert torch.equal(batch.images, images[batch.entries])
        assert torch.equal(batch.texts, texts[batch.entries])


def test_an_epoch_that_is_not_read_to_its_end_leaves_no_thread(store: Store) -> None:
    dataset = prepare(store, SCENES)
    before = set(threading.enumerate())
    batches = stream_of(dataset, batch_size=2, readers=3)
    next(batches)
    # Other tests' threads may end meanwhile.
    own = set(threading.enumerate()) - before
    assert own
    batches.close()
    assert not [thread for thread in own if thread.is_alive()]
