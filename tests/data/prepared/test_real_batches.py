"""The real batch of each step compared with the epochs of the stream."""

import pytest
import torch

from tests.data.prepared.prepared_sets import SCENES, numbered
from vldd_dist.data.prepared.batches.real_batches import RealBatches
from vldd_dist.data.prepared.batches.stream import EpochStream, PairBatch, StreamSettings
from vldd_dist.data.prepared.dataset import Dataset, EncodedImage
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.prepared_data import prepare

SEED, SIZE = 1, 4
# Of the 23 images, three are left out of each epoch.
STEPS = 5


@pytest.fixture
def dataset(store: Store) -> Dataset:
    return prepare(store, SCENES)


def real_batches(dataset: Dataset, size: int = SIZE) -> RealBatches:
    return RealBatches(numbered(dataset), dataset, size, SEED, lambda count: (0, count))


def assert_same(found: PairBatch, wanted: PairBatch) -> None:
    assert torch.equal(found.entries, wanted.entries)
    assert torch.equal(found.images, wanted.images)
    assert torch.equal(found.texts, wanted.texts)


def test_steps_go_through_the_whole_batches_of_one_epoch_after_the_other(dataset: Dataset) -> None:
    batches = real_batches(dataset)
    found = [batches[step] for step in range(2 * STEPS)]
    for epoch in (0, 1):
        stream = EpochStream(numbered(dataset), dataset, "train", StreamSettings(SIZE), seed=SEED, epoch=epoch)
        for step, wanted in enumerate(list(stream)[:STEPS]):
            assert_same(found[epoch * STEPS + step], wanted)
        of_epoch = torch.cat([batch.entries for batch in found[epoch * STEPS :][:STEPS]])
        assert len(set(of_epoch.tolist())) == STEPS * SIZE
    orders = [[batch.entries.tolist() for batch in found[epoch * STEPS :][:STEPS]] for epoch in (0, 1)]
    assert orders[0] != orders[1]


def test_a_batch_does_not_depend_on_the_steps_before_it(dataset: Dataset) -> None:
    batches = real_batches(dataset)
    in_sequence = [batches[step] for step in range(STEPS + 3)]
    for step in (STEPS + 2, 1, 1, STEPS):
        assert_same(real_batches(dataset)[step], in_sequence[step])
        assert_same(batches[step], in_sequence[step])


@pytest.mark.parametrize(("step", "most_shards", "most_images"), [(2, 8, 3 * SIZE), (4, 4, 23 - 4 * SIZE)])
def test_a_resumed_step_does_not_read_what_comes_before_it(
    store: Store, step: int, most_shards: int, most_images: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The twelve shards make three windows. Of the batches, the step's own and two ahead are decoded."""
    dataset = prepare(store, SCENES.model_copy(update={"shard_images": 2}))
    stream = EpochStream(numbered(dataset), dataset, "train", StreamSettings(SIZE), seed=SEED, epoch=0)
    wanted = list(stream)[step]
    read, decoded, read_shard, pixels = [], [], Dataset.read_shard, EncodedImage.pixels
    monkeypatch.setattr(Dataset, "read_shard", lambda self, shard: read.append(shard) or read_shard(self, shard))
    monkeypatch.setattr(EncodedImage, "pixels", lambda self: decoded.append(self.index) or pixels(self))
    assert_same(real_batches(dataset)[step], wanted)
    assert len(read) <= most_shards
    assert len(decoded) <= most_images


def test_a_batch_has_at_most_all_images(dataset: Dataset) -> None:
    batches = real_batches(dataset, size=100)
    entries = [batches[step].entries.tolist() for step in (0, 1)]
    assert [sorted(of_step) for of_step in entries] == [list(range(23))] * 2
    assert entries[0] != entries[1]
