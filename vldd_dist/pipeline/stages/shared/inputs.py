"""Loading inputs in forms that several stages need."""

import torch

from vldd_dist.artifacts.tensor_files.tensor_cache import TensorCache
from vldd_dist.artifacts.tensor_files.trajectories import Trajectory
from vldd_dist.coresets.candidates import Candidates
from vldd_dist.models.dual_encoder import DualEncoder
from vldd_dist.models.parameters import ParameterView
from vldd_dist.pipeline.context import StageContext, read_tensors
from vldd_dist.retrieval.encode import RetrievalSplit, retrieval_split


def load_retrieval_split(context: StageContext, model: DualEncoder, split: str) -> RetrievalSplit:
    """A split in the form that `measure` expects, for models with the same frozen towers as this one."""
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


def load_candidates(context: StageContext) -> Candidates:
    """The training pairs, with an expert's features and forgetting counts of them if the unit has these as inputs."""
    features, counts = {}, {}
    if "features" in context.order.inputs:
        features = read_tensors(context.reader("features"), "features.safetensors")
    if "expert" in context.order.inputs:
        counts = read_tensors(context.reader("expert"), "forgetting.safetensors")
    return Candidates(
        context.dataset.splits["train"].images,
        features.get("image"),
        features.get("text"),
        counts.get("events"),
        counts.get("ever"),
        features.get("caption"),
    )


def captions_selected_by(candidates: Candidates, indices: list[int]) -> list[int] | None:
    """For each image, the number of the caption whose feature was used to select it; None if captions were not used."""
    return None if candidates.caption is None else candidates.caption[torch.tensor(indices)].tolist()
