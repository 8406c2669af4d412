"""The embeddings of all captions: an index of the `embedding_group` units."""

from typing import Any

from pydantic import Field

from vldd_dist.artifacts.facts import Count, Facts
from vldd_dist.models.text.identity import text_identity
from vldd_dist.pipeline.context import StageContext
from vldd_dist.pipeline.stage import StageSpec, Units
from vldd_dist.pipeline.stages.data.grouped import aligned_units, write_groups
from vldd_dist.pipeline.work_unit import WorkUnit


class CaptionEmbeddingsFacts(Facts):
    captions: Count
    dim: Count
    encoder: dict[str, Any] = Field(description="encoder, revision, pooling and preprocessing that produced the vectors")


def unit(graph: Units) -> WorkUnit:
    """The index for all captions of the dataset."""
    spec = {"text": text_identity(graph.experiment.model.text)}
    inputs = {"dataset": graph.unit("dataset"), **aligned_units(graph, "embedding_group")}
    return STAGE.new(graph.experiment, spec, inputs, label="caption embeddings")


def run(context: StageContext) -> dict[str, Any]:
    """Write the index of the groups."""
    groups = write_groups(context)
    captions = sum(group.facts["captions"] for group in groups)
    return {"captions": captions, "dim": groups[0].facts["dim"], "encoder": groups[0].facts["encoder"]}


STAGE = StageSpec(
    kind="caption_embeddings",
    version=2,
    title="caption embeddings",
    result=CaptionEmbeddingsFacts,
    unit=unit,
    run=run,
    priority=2,
    wanted=lambda graph: [()],
    milestone="data",
    lower_for_memory="data.train_images",
)
