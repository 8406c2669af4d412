"""Real mini-batches by the number of a step, for objectives that compare synthetic pairs with real ones."""

from collections.abc import Callable, Iterator

from vldd_dist.data.prepared.embeddings import CaptionEmbeddings
from vldd_dist.data.prepared.image_features import ImageFeatures
from vldd_dist.data.prepared.stream import EpochStream, PairBatch


class RealBatches:
    """Batches of one stream over the training split, epoch after epoch: a batch is a function of (seed, step). Steps in order
    are read once; a resumed run reads the epoch again up to its step.

    Args:
        features: streamed instead of the images; none: images.
        batch_size: over all ranks; what remains of an epoch when fewer do is left out.
        rows: from the size of a batch to the rows [start, stop) of it that are wanted here.
    """

    def __init__(
        self,
        embeddings: CaptionEmbeddings,
        features: ImageFeatures | None,
        batch_size: int,
        seed: int,
        rows: Callable[[int], tuple[int, int]],
    ) -> None:
        self.embeddings, self.features, self.seed, self.rows = embeddings, features, seed, rows
        images = embeddings.dataset.splits["train"].images
        self.batch_size = min(batch_size, images)
        self.of_an_epoch = images // self.batch_size
        self._batches: Iterator[PairBatch] = iter(())
        self._next = -1

    def __getitem__(self, step: int) -> PairBatch:
        """The wanted rows of the batch of a step."""
        epoch, position = divmod(step, self.of_an_epoch)
        if step != self._next or position == 0:
            self._batches = iter(self._stream(epoch))
            for _ in range(position):
                next(self._batches)
        self._next = step + 1
        return next(self._batches)

    def _stream(self, epoch: int) -> EpochStream:
        return EpochStream(
            self.embeddings,
            "train",
            seed=self.seed,
            epoch=epoch,
            batch_size=self.batch_size,
            augment=None,
            readers=1,
            features=self.features,
            rows=self.rows,
        )
