"""The median rank of a caption's own image."""

from torch import Tensor
from torch.nn import functional

from vldd_dist.retrieval.metrics.base import Metric


class MedianRank(Metric):
    """The median, over the captions, of the rank of the caption's own image among all images. 1 is the best: the right image
    comes first for at least half of the captions. Ties count against the model, as in `recall`."""

    def measure(self, image_features: Tensor, text_features: Tensor, image_of_caption: Tensor) -> float:
        scores = functional.normalize(text_features.float()) @ functional.normalize(image_features.float()).T
        own = scores.gather(1, image_of_caption.to(scores.device)[:, None])
        return float((~(scores < own)).sum(dim=1).median())
