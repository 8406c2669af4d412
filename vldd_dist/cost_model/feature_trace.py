"""Traces the passes of a student whose inputs are the features of a frozen backbone, so that it is only a pair of heads."""

from torch import Tensor, empty, no_grad

from vldd_dist.config.sections.model import ModelSettings
from vldd_dist.cost_model.memory_trace import META, MemoryTrace
from vldd_dist.models.dual_encoder import DualEncoder
from vldd_dist.models.image.backbone import feature_size
from vldd_dist.models.image.feature_backbone import FeatureBackbone
from vldd_dist.models.live_memory import LiveMemory


class FeatureTrace(MemoryTrace):
    """The memory of the passes of a student on features. Its `images` are features (n, F).

    Args:
        image_dim, text_dim: F and D.
    """

    def __init__(self, settings: ModelSettings, image_dim: int, text_dim: int) -> None:
        self.image_dim = image_dim
        super().__init__(settings, text_dim, image_size=0)

    def encoding(self, count: int) -> int:
        """The peak of a pass of this many features and of as many embeddings through the heads, in bytes, without a graph."""
        model = self.model()
        with no_grad(), LiveMemory() as memory:
            model(self.images(count), empty(count, self.text_dim, device=META))
        return memory.peak

    def inputs_of_pairs(self, pairs: int) -> int:
        """0: features are model inputs."""
        return 0

    def images(self, pairs: int) -> Tensor:
        """Features (pairs, F) on the meta device."""
        return empty(pairs, self.image_dim, device=META)

    def _build(self) -> DualEncoder:
        return DualEncoder(FeatureBackbone(self.image_dim), self.settings, self.text_dim)


def on_features(trace: MemoryTrace, model: ModelSettings) -> FeatureTrace:
    """The trace of students with these settings on the features of the traced dual encoder's backbone. It is made once."""
    key = ("on features", model.model_dump_json())
    return trace.once(key, lambda: FeatureTrace(model, feature_size(trace.model().image_backbone), trace.text_dim))
