"""The prepared dataset: an index of the shards of its `shard_group` units."""

from vldd_dist.config.sections.data import DataSettings
from vldd_dist.data.facts import DatasetFacts
from vldd_dist.data.preparation.groups import groups_of
from vldd_dist.data.preparation.merge import bad_images, count_duplicates, merged_splits, refuse_wrong_sizes, summary
from vldd_dist.data.preparation.shared_captions import find_shared
from vldd_dist.data.prepared.shard_index import INDEX, encode_index
from vldd_dist.pipeline.context import StageContext
from vldd_dist.pipeline.stage import StageSpec, UnitGraph
from vldd_dist.pipeline.stages.data.grouped import read_groups, role_of
from vldd_dist.pipeline.work_unit import WorkUnit


def unit(graph: UnitGraph) -> WorkUnit:
    """The dataset of all groups of the source."""
    data = graph.experiment.data
    groups = list(groups_of(data))
    inputs = {role_of(number): graph.unit("shard_group", number, group) for number, group in enumerate(groups)}
    execution = {"settings": data.model_dump(mode="json")}
    settings = data.identity()
    # The effect of the groups' size is in the inputs, and fractions for splits that the source has have none.
    del settings["group_images"]
    carved = {split for group in groups for split, _ in group.carved}
    settings["split"] = {split: fraction for split, fraction in settings["split"].items() if split in carved}
    return STAGE.new(graph.experiment, {"settings": settings}, inputs, execution, "dataset")


def run(context: StageContext) -> DatasetFacts:
    """Run the checks that concern all groups together, and write the index."""
    settings = DataSettings.model_validate(context.execution["settings"])
    groups = read_groups(context)
    splits = merged_splits(groups)
    bad = bad_images(groups, settings.max_bad_fraction)
    refuse_wrong_sizes(settings, splits, bad)
    context.writer.put(INDEX, encode_index(splits))
    return DatasetFacts(
        splits=summary(splits, groups, bad),
        duplicates=count_duplicates(groups),
        shared_captions=find_shared(groups),
        image_size=settings.image_size,
        source=settings.source.name,
        licence=settings.licence,
    )


STAGE = StageSpec(
    kind="dataset",
    version=4,
    title="dataset",
    result=DatasetFacts,
    unit=unit,
    run=run,
    priority=0,
    lower_for_memory="data.train_images",
)
