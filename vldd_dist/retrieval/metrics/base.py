"""The interface of a metric."""

from abc import abstractmethod

from torch import Tensor

from vldd_dist.config.base import Plugin


class Metric(Plugin):
    """A number that describes a model on the test split, with its settings. It is only reported: learning rates and pairs are
    chosen by mean validation recall."""

    @abstractmethod
    def measure(self, image_features: Tensor, text_features: Tensor, image_of_caption: Tensor) -> float:
        """The value of the metric.

        Args:
            image_features: (N, d).
            text_features: (C, d).
            image_of_caption: (C,) int64, the image each caption belongs to.
        """
