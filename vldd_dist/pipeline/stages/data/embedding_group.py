"""Caption embeddings of a group of shards. Each distinct caption is encoded once by the frozen text encoder."""

from typing import Any

import torch
from pydantic import Field

from vldd_dist.artifacts.facts import Count, Facts
from vldd_dist.artifacts.tensor_files import tensors
from vldd_dist.config.experiment import Experiment
from vldd_dist.config.sections.model import TextTowerSettings
from vldd_dist.cost_model.memory_model import Terms
from vldd_dist.cost_model.memory_trace import TraceOf
from vldd_dist.cost_model.text_memory import text_encoder_memory
from vldd_dist.data.prepared.embeddings import ShardTexts
from vldd_dist.data.prepared.image_lines import read_lines
from vldd_dist.errors import ConfigError, OtherOnThisMachine
from vldd_dist.models.text.encoder import FrozenTextEncoder
from vldd_dist.models.text.identity import text_identity
from vldd_dist.pipeline.context import StageContext
from vldd_dist.pipeline.stage import StageSpec, UnitGraph
from vldd_dist.pipeline.stages.data.grouped import group_unit, shards_of
from vldd_dist.pipeline.work_unit import WorkUnit


class EmbeddingGroupFacts(Facts):
    captions: Count
    distinct: Count
    dim: Count
    encoder: dict[str, Any]
    cut: Count = Field(0, description="as in `CaptionEmbeddingsFacts`")
    positions: Count | None = Field(None, description="as in `CaptionEmbeddingsFacts`")
    files: dict[str, str] = Field({}, description="name and sha256 of the files of an encoder on a hub; empty for others")


def unit(graph: UnitGraph, number: int) -> WorkUnit:
    """The embeddings of the group of shards with this number."""
    text, settings = graph.experiment.model.text, graph.experiment.embeddings
    return STAGE.new(
        graph.experiment,
        {"text": text_identity(text)},
        {"shards": group_unit(graph, number)},
        {"text": text.model_dump(mode="json"), "batch_size": settings.batch_size},
        f"embeddings {number}",
    )


def run(context: StageContext) -> EmbeddingGroupFacts:
    """Encode the captions, and store the embeddings of each shard in one object."""
    text = TextTowerSettings.model_validate(context.execution["text"])
    _check_identity(text, context.spec["text"])
    encoder = FrozenTextEncoder(text, context.device)
    group = context.reader("shards")
    # Shard -> the captions of each of its images.
    captions_of = {shard: [line.captions for line in read_lines(group, shard)] for shard in shards_of(group)}
    every = [caption for images in captions_of.values() for captions in images for caption in captions]
    distinct = list(dict.fromkeys(every))
    vectors = encoder.encode(distinct, context.execution["batch_size"], context.report)
    row_of = {caption: row for row, caption in enumerate(distinct)}
    are_cut = encoder.are_cut(distinct)
    for shard, images in captions_of.items():
        rows = torch.tensor([row_of[caption] for captions in images for caption in captions])
        counts = torch.tensor([0, *(len(captions) for captions in images)])
        context.writer.put(f"{shard}.safetensors", tensors.encode(ShardTexts(vectors[rows], counts.cumsum(0)).as_piece()))
    return EmbeddingGroupFacts(
        captions=len(every),
        distinct=len(distinct),
        dim=vectors.shape[1],
        encoder=encoder.identity,
        cut=sum(are_cut[row_of[caption]] for caption in every),
        positions=encoder.architecture.positions,
        files=encoder.files,
    )


def _check_identity(text: TextTowerSettings, planned: dict[str, Any]) -> None:
    """Raises OtherOnThisMachine unless the encoder is the planned one. Checked before it is loaded: a folder that is missing
    here would be taken for the name of a model on the hub."""
    try:
        found = text_identity(text)
    except ConfigError as error:
        # The plan has found the same encoder.
        raise OtherOnThisMachine(str(error)) from None
    if found != planned:
        raise OtherOnThisMachine(
            f"model.text.model: {text.model} has changed since the run was planned, or is another encoder on this machine: "
            "start the run again, or give every machine the same files"
        )


def memory(experiment: Experiment, traces: TraceOf) -> Terms:
    """The encoder and one batch. The embeddings are kept in host memory."""
    return text_encoder_memory(experiment.model.text, experiment.embeddings.batch_size)


STAGE = StageSpec(
    kind="embedding_group",
    version=2,
    title="embedding groups",
    section="embeddings",
    result=EmbeddingGroupFacts,
    unit=unit,
    run=run,
    priority=2,
    lower_for_memory="embeddings.batch_size or data.group_images",
    memory=memory,
)
