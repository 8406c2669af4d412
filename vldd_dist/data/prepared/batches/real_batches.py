"""The real mini-batch of each step, for objectives that compare synthetic pairs with real ones."""

from collections.abc import Callable, Iterator

from vldd_dist.data.prepared.batches.stream import EpochStream, PairBatch, StreamSettings
from vldd_dist.data.prepared.dataset import Dataset
from vldd_dist.data.prepared.embeddings import CaptionEmbeddings
from vldd_dist.data.prepared.image_features import ImageFeatures


class RealBatches:
    """Batches of the training split, epoch after epoch. A batch depends only on (seed, step). Consecutive steps continue the
    stream; any other step, for example after a resumption, begins a new stream with the window of shards that its batch is in.

    Args:
        images: the data set, or features that are streamed instead of its images.
        batch_size: over all ranks; the last, smaller batch of an epoch is dropped.
        rows: function from the size of a batch to the rows [start, stop) of it that this rank needs.
    """

    def __init__(
        self,
        embeddings: CaptionEmbeddings,
        images: Dataset | ImageFeatures,
        batch_size: int,
        seed: int,
        rows: Callable[[int], tuple[int, int]],
    ) -> None:
        self.embeddings, self.images, self.seed, self.rows = embeddings, images, seed, rows
        count = embeddings.splits["train"].images
        self.batch_size = min(batch_size, count)
        self.batches_per_epoch = count // self.batch_size
        self._batches: Iterator[PairBatch] = iter(())
        self._next = -1

    def __getitem__(self, step: int) -> PairBatch:
        """This rank's rows of the batch of a step."""
        epoch, position = divmod(step, self.batches_per_epoch)
        if step != self._next or position == 0:
            self._batches = iter(self._stream(epoch, position))
        self._next = step + 1
        return next(self._batches)

    def _stream(self, epoch: int, skip: int) -> EpochStream:
        return EpochStream(
            self.embeddings,
            self.images,
            "train",
            StreamSettings(self.batch_size),
            seed=self.seed,
            epoch=epoch,
            rows=self.rows,
            skip=skip,
        )
