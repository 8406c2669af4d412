"""The features of all images by a frozen image backbone: an index of the `feature_group` units."""

from vldd_dist.artifacts.facts import Count, Facts
from vldd_dist.pipeline.context import StageContext
from vldd_dist.pipeline.stage import StageSpec, UnitGraph
from vldd_dist.pipeline.stages.data.feature_group import FeatureGroupFacts
from vldd_dist.pipeline.stages.data.grouped import aligned_units, write_groups
from vldd_dist.pipeline.stages.shared.model_units import model_named, tower_spec
from vldd_dist.pipeline.work_unit import WorkUnit


class ImageFeaturesFacts(Facts):
    images: Count
    dim: Count


def unit(graph: UnitGraph, image_model: str) -> WorkUnit:
    """The features computed by the timm model of this name."""
    spec = {"tower": tower_spec(model_named(graph.experiment, image_model).image)}
    inputs = {"dataset": graph.unit("dataset"), **aligned_units(graph, "feature_group", image_model)}
    return STAGE.new(graph.experiment, spec, inputs, label=f"features of {image_model}")


def run(context: StageContext) -> ImageFeaturesFacts:
    """Write the index of the groups."""
    groups = [group.facts_as(FeatureGroupFacts) for group in write_groups(context)]
    return ImageFeaturesFacts(images=sum(group.images for group in groups), dim=max(group.dim for group in groups))


STAGE = StageSpec(
    kind="image_features",
    version=1,
    title="image features",
    result=ImageFeaturesFacts,
    unit=unit,
    run=run,
    priority=2,
    lower_for_memory="data.train_images",
)
