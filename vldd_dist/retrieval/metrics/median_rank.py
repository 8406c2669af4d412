"""The median rank of a caption's own image."""

from torch import Tensor
from torch.nn import functional

from vldd_dist.retrieval.metrics.base import Metric


class MedianRank(Metric):
    """The median, over the captions, of the rank of the caption's own image among all images; 1 is the best. Of an even number
    of captions it is the mean of the two middle ranks. Ties count against the model, as in `recall`."""

    def measure(self, image_features: Tensor, text_features: Tensor, image_of_caption: Tensor) -> float:
        scores = functional.normalize(text_features.float()) @ functional.normalize(image_features.float()).T
        own = scores.gather(1, image_of_caption.to(scores.device)[:, None])
        ranks = (~(scores < own)).sum(dim=1).sort().values
        # torch's median is the lower of the two middle values.
        return float(ranks[[(len(ranks) - 1) // 2, len(ranks) // 2]].double().mean())
