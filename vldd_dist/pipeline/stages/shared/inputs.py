"""Loading inputs in forms that several stages need."""

from vldd_dist.artifacts.tensor_files.tensor_cache import TensorCache
from vldd_dist.artifacts.tensor_files.trajectories import Trajectory
from vldd_dist.models.dual_encoder import DualEncoder
from vldd_dist.models.parameters import ParameterView
from vldd_dist.pipeline.context import StageContext
from vldd_dist.retrieval.encode import RetrievalSplit, retrieval_split


def load_retrieval_split(context: StageContext, model: DualEncoder, split: str) -> RetrievalSplit:
    """A split in the form that `measure` expects, for models with the same frozen encoders as this one."""
    texts, image_of_caption = context.embeddings.of_split(split)
    if context.image_features is not None:
        return RetrievalSplit(context.image_features.of_split(split), texts, image_of_caption)
    images = context.dataset.images(split)
    return retrieval_split(model, images, texts, image_of_caption, context.execution["encode_batch"])


def load_expert(context: StageContext) -> DualEncoder:
    """The expert of the input `expert`, with the parameters of its last epoch."""
    trajectory = Trajectory(context.reader("expert"), TensorCache())
    model = context.build_model(0)
    view = ParameterView(model)
    last = trajectory.epochs[-1]
    view.write(view.from_dicts(trajectory.snapshot(last, "image"), trajectory.snapshot(last, "text")))
    return model
