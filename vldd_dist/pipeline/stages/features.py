"""Joint features of every training image and one of its captions, by a trained expert."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from pydantic import AliasChoices, Field
from torch import Tensor

from vldd_dist.artifacts import tensors
from vldd_dist.artifacts.facts import Count, Facts
from vldd_dist.data.images import decode, to_tensor
from vldd_dist.data.real_pairs import drawn_captions
from vldd_dist.pipeline.context import StageContext
from vldd_dist.pipeline.inputs import load_expert
from vldd_dist.pipeline.model_units import model_inputs, model_spec
from vldd_dist.pipeline.stage import StageSpec, Units
from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.retrieval.encode import encode_images, encode_texts


class FeaturesFacts(Facts):
    # Manifests of earlier versions say "pictures".
    images: Count = Field(validation_alias=AliasChoices("images", "pictures"))
    dim: Count


def unit(graph: Units, expert: int) -> WorkUnit:
    """By the expert with this index."""
    experiment = graph.experiment
    return STAGE.new(
        experiment,
        {"model": model_spec(experiment.model), "seed": experiment.seed},
        {
            "dataset": graph.unit("dataset"),
            "expert": graph.unit("expert", expert),
            **model_inputs(graph, experiment.model),
        },
        {"encode_batch": experiment.evaluation.encode_batch},
        f"features of expert {expert}",
    )


def run(context: StageContext) -> dict[str, Any]:
    """The number of each image's caption is stored with its feature: pairs that are selected by features keep that caption."""
    model = load_expert(context)
    captions = context.dataset.captions("train")
    drawn = drawn_captions(captions, list(range(len(captions))), context.spec["seed"])
    size = context.execution["encode_batch"]
    image = encode_images(model, _decoded_batches(context, size))
    chosen = [given[number] for given, number in zip(captions, drawn, strict=True)]
    text = encode_texts(model, context.embeddings.lookup(chosen), size)
    found = {"image": image, "text": text, "caption": torch.tensor(drawn)}
    context.writer.put("features.safetensors", tensors.encode(found))
    return {"images": len(image), "dim": image.shape[1]}


def _decoded_batches(context: StageContext, size: int) -> Iterator[Tensor]:
    images = context.dataset.iterate("train")
    while batch := list(islice(images, size)):
        yield torch.stack([to_tensor(decode(image.data, image.key)) for image in batch])


STAGE = StageSpec(
    kind="features",
    version=3,
    title="features",
    section="coresets",
    result=FeaturesFacts,
    unit=unit,
    run=run,
    priority=5,
    lower_for_memory="evaluation.encode_batch",
)
