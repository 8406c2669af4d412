"""Features of every training image and of one of its captions in the joint space of a trained expert."""

from collections.abc import Iterator

import torch
from torch import Tensor

from vldd_dist.artifacts.facts import Count, Facts
from vldd_dist.artifacts.tensor_files import tensors
from vldd_dist.data.prepared.batches.real_pairs import drawn_texts
from vldd_dist.data.prepared.dataset import decoded_batches
from vldd_dist.data.prepared.shard_index import Shard
from vldd_dist.events import Progress
from vldd_dist.models.dual_encoder import DualEncoder
from vldd_dist.pipeline.context import StageContext
from vldd_dist.pipeline.stage import StageSpec, UnitGraph
from vldd_dist.pipeline.stages.shared.inputs import load_expert
from vldd_dist.pipeline.stages.shared.model_units import expert_model, model_execution, model_input_units, model_spec
from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.retrieval.encode import encode_images, encode_inputs, encode_texts


class FeaturesFacts(Facts):
    images: Count
    dim: Count


def unit(graph: UnitGraph, expert: int) -> WorkUnit:
    """The features computed by the expert with this index."""
    experiment = graph.experiment
    model = expert_model(experiment)
    return STAGE.new(
        experiment,
        {"model": model_spec(model), "seed": experiment.seed},
        {
            "dataset": graph.unit("dataset"),
            "expert": graph.unit("expert", expert),
            **model_input_units(graph, experiment.model),
        },
        {"encode_batch": experiment.evaluation.encode_batch, **model_execution(model)},
        f"features of expert {expert}",
    )


def run(context: StageContext) -> FeaturesFacts:
    """Encode the training split. The number of each image's drawn caption is stored with the features, so that a pair that is
    selected by its features keeps this caption."""
    model, seed, size = load_expert(context), context.spec["seed"], context.execution["encode_batch"]
    images, texts, drawn = [], [], []
    shards = context.dataset.splits["train"].shards
    for shard, of_images in zip(shards, _image_features(context, model, shards), strict=True):
        chosen, vectors = drawn_texts(context.embeddings.of_shard(shard), shard, seed)
        images.append(of_images.cpu())
        texts.append(encode_texts(model, vectors, size).cpu())
        drawn += chosen
        context.report(Progress(len(drawn), context.dataset.splits["train"].images))
    features = {"image": torch.cat(images), "text": torch.cat(texts), "caption": torch.tensor(drawn)}
    context.writer.put("features.safetensors", tensors.encode(features))
    return FeaturesFacts(images=len(features["image"]), dim=features["image"].shape[1])


def _image_features(context: StageContext, model: DualEncoder, shards: list[Shard]) -> Iterator[Tensor]:
    """Joint features (n, d) of the images of each shard."""
    size = context.execution["encode_batch"]
    if context.image_features is not None:
        for features in context.image_features.of_shards(shards):
            yield encode_inputs(model, features.split(size))
    else:
        for encoded in context.dataset.read_shards(shards):
            yield encode_images(model, decoded_batches(encoded, size))


STAGE = StageSpec(
    kind="features",
    version=3,
    title="expert features",
    section="coresets",
    result=FeaturesFacts,
    unit=unit,
    run=run,
    priority=5,
    lower_for_memory="evaluation.encode_batch",
)
