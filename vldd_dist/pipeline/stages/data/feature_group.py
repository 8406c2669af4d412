"""Features of the images of a group of shards, computed by a frozen image backbone (without the head)."""

import torch
from pydantic import Field

from vldd_dist.artifacts.facts import Count, Facts
from vldd_dist.artifacts.tensor_files import tensors
from vldd_dist.config.experiment import Experiment
from vldd_dist.config.sections.model import ImageTowerSettings, ModelSettings
from vldd_dist.cost_model.memory_model import Terms, peak
from vldd_dist.cost_model.memory_trace import TraceOf
from vldd_dist.data.facts import ShardGroupFacts
from vldd_dist.data.prepared.dataset import decoded_batches, encoded_images
from vldd_dist.events import Progress
from vldd_dist.in_order import in_order
from vldd_dist.models.dual_encoder import DualEncoder, build
from vldd_dist.models.inputs import frozen_backbone
from vldd_dist.pipeline.context import StageContext, read_tensors
from vldd_dist.pipeline.stage import StageSpec, UnitGraph
from vldd_dist.pipeline.stages.data.grouped import group_unit, shards_of
from vldd_dist.pipeline.stages.shared.model_units import model_named, tower_spec
from vldd_dist.pipeline.work_unit import WorkUnit


class FeatureGroupFacts(Facts):
    images: Count
    dim: Count = Field(description="0 for a group without images")


def unit(graph: UnitGraph, number: int, image_model: str) -> WorkUnit:
    """The features of the group of shards with this number."""
    experiment = graph.experiment
    image = model_named(experiment, image_model).image
    return STAGE.new(
        experiment,
        {"tower": tower_spec(image)},
        {"shards": group_unit(graph, number), "image_weights": graph.unit("image_weights", image_model)},
        {"encode_batch": experiment.evaluation.encode_batch},
        f"features {number} of {image_model}",
    )


def run(context: StageContext) -> FeatureGroupFacts:
    """Encode the images, and store the features of each shard in one object."""
    model, group = _model(context), context.reader("shards")
    backbone = frozen_backbone(model)
    assert backbone is not None
    images = dim = 0
    splits = group.facts_as(ShardGroupFacts).splits
    total = sum(shard.images for split in splits.values() for shard in split.shards)
    shards = shards_of(group)
    read = in_order(lambda shard: list(encoded_images(group, shard)), shards, threads=1, ahead=1)
    for shard, of_shard in zip(shards, read, strict=True):
        encoded = []
        for pixels in decoded_batches(of_shard, context.execution["encode_batch"]):
            encoded.append(backbone.features(model.normalise(pixels.to(context.device))).cpu())
            images += len(pixels)
            context.report(Progress(images, total))
        features = torch.cat(encoded)
        dim = features.shape[1]
        context.writer.put(f"{shard}.safetensors", tensors.encode({"features": features}))
    return FeatureGroupFacts(images=images, dim=dim)


def _model(context: StageContext) -> DualEncoder:
    """The model with the weights of the unit's input. Its head is not used, so it may be any."""
    tower = ImageTowerSettings.model_validate(context.spec["tower"] | {"weights": "timm", "train": "frozen"})
    weights = read_tensors(context.reader("image_weights"), "weights.safetensors")
    settings = ModelSettings(image=tower)
    return build(settings, text_dim=1, image_weights=weights, head_seed=0).to(context.device)


def memory(experiment: Experiment, traces: TraceOf) -> Terms:
    """The backbone and one batch of images, the maximum over the image models; empty if no backbone is frozen. Images and
    features are kept in host memory."""
    of_models: list[Terms] = [{}]
    for model in (model_named(experiment, name) for name in experiment.image_models()):
        if model.has_features:
            trace = traces(model, experiment.data.image_size)
            # The traced pass also builds the frozen backbone, which is a term of its own.
            activations = trace.encoding(experiment.evaluation.encode_batch) - trace.frozen_backbone_bytes
            of_models.append(
                {"image backbone": trace.frozen_bytes, "folded": trace.frozen_backbone_bytes, "activations": activations}
            )
    return max(of_models, key=peak)


STAGE = StageSpec(
    kind="feature_group",
    version=1,
    title="feature groups",
    section="embeddings",
    result=FeatureGroupFacts,
    unit=unit,
    run=run,
    priority=2,
    lower_for_memory="evaluation.encode_batch",
    memory=memory,
)
