"""Caption embeddings: each distinct caption goes through the frozen text tower once."""

from typing import Any

from pydantic import Field

from vldd_dist.artifacts.facts import Count, Facts
from vldd_dist.config.model import TextTowerSettings
from vldd_dist.data.embeddings import CaptionEmbeddings
from vldd_dist.models.identity import text_identity
from vldd_dist.models.text import FrozenTextEncoder
from vldd_dist.pipeline.context import StageContext
from vldd_dist.pipeline.stage import StageSpec, Units
from vldd_dist.pipeline.work_unit import WorkUnit


class CaptionEmbeddingsFacts(Facts):
    captions: Count
    dim: Count
    encoder: dict[str, Any] = Field(description="encoder, revision, pooling and preprocessing that made the vectors")


def unit(graph: Units) -> WorkUnit:
    """Of all captions of the data set."""
    text, settings = graph.experiment.model.text, graph.experiment.embeddings
    return STAGE.new(
        graph.experiment,
        {"text": text_identity(text)},
        {"dataset": graph.unit("dataset")},
        {"text": text.model_dump(mode="json"), "batch_size": settings.batch_size},
        "caption embeddings",
    )


def run(context: StageContext) -> dict[str, Any]:
    """Encode and store them."""
    encoder = FrozenTextEncoder(TextTowerSettings.model_validate(context.execution["text"]), context.device)
    captions = context.dataset.all_captions()
    vectors = encoder.encode(captions, context.execution["batch_size"], context.report)
    for name, data in CaptionEmbeddings(captions, vectors).encode().items():
        context.writer.put(name, data)
    return {"captions": len(captions), "dim": vectors.shape[1], "encoder": encoder.identity}


STAGE = StageSpec(
    kind="caption_embeddings",
    version=1,
    title="caption embeddings",
    section="embeddings",
    result=CaptionEmbeddingsFacts,
    unit=unit,
    run=run,
    priority=2,
    wanted=lambda graph: [()],
    milestone="data",
    lower_for_memory="embeddings.batch_size",
)
