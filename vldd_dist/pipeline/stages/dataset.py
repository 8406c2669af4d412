"""The prepared data set: WebDataset shards of resized images with their captions."""

from typing import Any

from pydantic import Field

from vldd_dist.artifacts.facts import Count, Facts
from vldd_dist.config.data import DataSettings
from vldd_dist.data.prepare import prepare_dataset
from vldd_dist.data.sources.base import SPLITS
from vldd_dist.pipeline.context import StageContext
from vldd_dist.pipeline.stage import StageSpec, Units
from vldd_dist.pipeline.work_unit import WorkUnit


class ShardFacts(Facts):
    name: str = Field(description="the object's name")
    images: Count


class SplitFacts(Facts):
    shards: list[ShardFacts]
    images: Count
    captions: Count
    bad_images: Count = Field(description="images of the source that could not be read and were left out")


class DatasetFacts(Facts):
    splits: dict[str, SplitFacts]
    image_size: Count = Field(description="pixels, square")
    source: str
    licence: str


def unit(graph: Units) -> WorkUnit:
    """The source's content is in the spec, not where it lies."""
    data, seed = graph.experiment.data, graph.experiment.seed
    source = data.source
    parts = {split: source.parts(split, limit=data.limits[split], images=data.shard_images) for split in SPLITS}
    described = [source.describe(split, part, seed=seed) for split in SPLITS for part in parts[split]]
    spec = {"settings": data.identity(), "source": described}
    return STAGE.new(
        graph.experiment, spec, execution={"settings": data.model_dump(mode="json"), "seed": seed}, label="dataset"
    )


def run(context: StageContext) -> dict[str, Any]:
    """Read the source and write the shards."""
    settings = DataSettings.model_validate(context.execution["settings"])
    return prepare_dataset(settings, context.execution["seed"], context.writer, context.report)


STAGE = StageSpec(
    kind="dataset",
    version=3,
    title="dataset",
    result=DatasetFacts,
    unit=unit,
    run=run,
    priority=0,
    lower_for_memory="data.shard_images",
)
