"""The interface of a metric."""

from abc import abstractmethod

from torch import Tensor

from vldd_dist.config.base import Plugin


class Metric(Plugin):
    """A number that describes a model on the test split, with its settings. It is only reported: learning rates and pairs are
    chosen by mean validation recall."""

    @abstractmethod
    def measure(self, image_features: Tensor, text_features: Tensor, image_of_caption: Tensor) -> float:
        """The value of the metric, a finite number. It is called once for each student and each expert, on rank
        0.

        Args:
            image_features: (N, d) float32, of any norm, without a graph. All three are on the worker's device.
            text_features: (C, d), likewise, grouped by image.
            image_of_caption: (C,) int64, the image each caption belongs to.
        """
