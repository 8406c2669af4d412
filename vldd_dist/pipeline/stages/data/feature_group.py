"""Features of a group's images by a frozen image tower, before its head."""

from collections.abc import Iterator
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from vldd_dist.artifacts import tensors
from vldd_dist.artifacts.facts import Count, Facts
from vldd_dist.config.experiment import Experiment
from vldd_dist.config.sections.model import ImageTowerSettings, ModelSettings
from vldd_dist.cost_model.memory_model import Terms, peak
from vldd_dist.cost_model.memory_trace import TraceOf
from vldd_dist.data.images import decode, to_tensor
from vldd_dist.data.prepared.image_lines import read_lines
from vldd_dist.events import Progress
from vldd_dist.models.dual_encoder import DualEncoder, build
from vldd_dist.models.inputs import frozen_tower
from vldd_dist.pipeline.context import StageContext, read_tensors
from vldd_dist.pipeline.model_units import model_named, tower_spec
from vldd_dist.pipeline.stage import StageSpec, Units
from vldd_dist.pipeline.stages.data.grouped import group_unit, shards_of
from vldd_dist.pipeline.work_unit import WorkUnit


class FeatureGroupFacts(Facts):
    images: Count
    dim: Count = Field(description="0 for a group without images")


def unit(graph: Units, number: int, image_model: str) -> WorkUnit:
    """Of the group of shards with this number."""
    experiment = graph.experiment
    image = model_named(experiment, image_model).image
    return STAGE.new(
        experiment,
        {"tower": tower_spec(image)},
        {"shards": group_unit(graph, number), "image_weights": graph.unit("image_weights", image_model)},
        {"encode_batch": experiment.evaluation.encode_batch},
        f"features {number} of {image_model}",
    )


def run(context: StageContext) -> dict[str, Any]:
    """Encode, and store a piece for each shard."""
    model, group = _model(context), context.reader("shards")
    tower = frozen_tower(model)
    assert tower is not None
    images = dim = 0
    total = sum(shard["images"] for split in group.facts["splits"].values() for shard in split["shards"])
    for shard in shards_of(group):
        found = []
        for batch in _batches(context, shard):
            found.append(tower.features(model.normalise(batch.to(context.device))).cpu())
            images += len(batch)
            context.report(Progress(images, total))
        features = torch.cat(found)
        dim = features.shape[1]
        context.writer.put(f"{shard}.safetensors", tensors.encode({"features": features}))
    return {"images": images, "dim": dim}


def _model(context: StageContext) -> DualEncoder:
    """With any head: features come before it. Its weights are the input's, whatever they are called."""
    tower = ImageTowerSettings.model_validate(context.spec["tower"] | {"weights": "timm", "train": "frozen"})
    weights = read_tensors(context.reader("image_weights"), "weights.safetensors")
    settings = ModelSettings(image=tower)
    return build(settings, text_dim=1, image_weights=weights, head_seed=0).to(context.device)


def _batches(context: StageContext, shard: str) -> Iterator[Tensor]:
    group, size = context.reader("shards"), context.execution["encode_batch"]
    data, lines = group.read(f"{shard}.tar"), read_lines(group, shard)
    for first in range(0, len(lines), size):
        some = lines[first : first + size]
        yield torch.stack([to_tensor(decode(data[line.start : line.start + line.size], line.key)) for line in some])


def memory(experiment: Experiment, traces: TraceOf) -> Terms:
    """The tower and a batch of images, of several image models the worst; nothing where no tower is frozen. Images and features
    wait in the host's memory."""
    found: list[Terms] = [{}]
    for model in (model_named(experiment, name) for name in experiment.image_models()):
        if model.has_features:
            trace = traces(model, experiment.data.image_size)
            # Making the tower is part of what is traced.
            activations = trace.encoding(experiment.evaluation.encode_batch) - trace.tower_bytes
            found.append({"image tower": trace.frozen_bytes, "folded": trace.tower_bytes, "activations": activations})
    return max(found, key=peak)


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
