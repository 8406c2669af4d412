"""A group of the dataset: WebDataset shards of resized images with their captions. Groups are prepared in parallel."""

import json

from vldd_dist.config.sections.data import DataSettings
from vldd_dist.data.facts import ShardGroupFacts
from vldd_dist.data.preparation.groups import Group
from vldd_dist.data.preparation.prepare import prepare_group
from vldd_dist.data.sources.base import Source
from vldd_dist.errors import DataError, OtherOnThisMachine
from vldd_dist.pipeline.context import StageContext
from vldd_dist.pipeline.stage import StageSpec, UnitGraph
from vldd_dist.pipeline.work_unit import WorkUnit

# Keys of `data` on which the shards depend, apart from `data.source`.
SETTINGS = ("image_size", "resize", "shard_images")


def unit(graph: UnitGraph, number: int, group: Group) -> WorkUnit:
    """The group with this number. Its spec describes the content of the source, not its location."""
    data, seed = graph.experiment.data, graph.experiment.seed
    identity, source = data.identity(), data.source
    content = [source.describe(group.split, part, seed=seed) for part in group.parts]
    if source.draws_images and not all(part.get("seed") == seed for part in content):
        raise AssertionError(
            f"the source {source.name} draws its images, but its `describe` does not return the seed: images of another seed "
            "would be taken for these"
        )
    spec = {
        "settings": {name: identity[name] for name in SETTINGS},
        "source": identity["source"],
        "content": content,
        "group": group.as_json(),
    }
    execution = {"settings": data.model_dump(mode="json"), "seed": seed}
    return STAGE.new(graph.experiment, spec, execution=execution, label=f"shards {number}")


def run(context: StageContext) -> ShardGroupFacts:
    """Read the group's part of the source, and write its shards."""
    settings = DataSettings.model_validate(context.execution["settings"])
    group = Group.from_json(context.spec["group"])
    _check_content(context, settings.source, group)
    facts = prepare_group(settings, group, context.execution["seed"], context.writer, context.report)
    # Again, because files may change while they are read. A source keeps its listing, so a new one asks.
    _check_content(context, DataSettings.model_validate(context.execution["settings"]).source, group)
    return facts


def _check_content(context: StageContext, source: Source, group: Group) -> None:
    """Check that the content of the group is what was planned.

    The plan cuts a source into groups by positions. In a folder with one more file they mean other images, so that some images
    would be in two groups and others in none.

    Raises:
        OtherOnThisMachine: it is not, or is not on this machine.
    """
    try:
        found = source.describe_only(group.split, group.parts, seed=context.execution["seed"])
    except DataError as error:
        # The plan has read the source in the same way.
        raise OtherOnThisMachine(str(error)) from None
    # As JSON, in which the lists of a plan and the tuples of a source are equal.
    if json.dumps(found, sort_keys=True) != json.dumps(context.spec["content"], sort_keys=True):
        raise OtherOnThisMachine(
            "data.source has changed since the run was planned, or this machine has another copy of it with other times of "
            "change: start the run again, or copy the files with their times"
        )


STAGE = StageSpec(
    kind="shard_group",
    version=5,
    title="shard groups",
    result=ShardGroupFacts,
    unit=unit,
    run=run,
    priority=0,
    lower_for_memory="data.shard_images",
)
