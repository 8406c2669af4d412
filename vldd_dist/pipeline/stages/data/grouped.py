"""What caption embeddings and image features have in common: one unit for each group of shards, and an index of them."""

from concurrent.futures import ThreadPoolExecutor

from vldd_dist.artifacts.units import UnitReader
from vldd_dist.data.facts import ShardGroupFacts
from vldd_dist.data.prepared.pieces import GROUPS, encode_groups
from vldd_dist.pipeline.context import StageContext
from vldd_dist.pipeline.stage import UnitGraph
from vldd_dist.pipeline.work_unit import WorkUnit

PREFIX = "group_"
READERS = 16


def role_of(number: int) -> str:
    """The role of a group's unit among the inputs of an index. Padded with zeros, so that roles sort like numbers."""
    return f"{PREFIX}{number:06d}"


def group_unit(graph: UnitGraph, number: int) -> WorkUnit:
    """The `shard_group` unit with this number."""
    return graph.unit("dataset").inputs[role_of(number)]


def aligned_units(graph: UnitGraph, kind: str, *key: object) -> dict[str, WorkUnit]:
    """Role -> unit of this kind, for each group of shards. The roles are those of the dataset's inputs."""
    count = len(graph.unit("dataset").inputs)
    return {role_of(number): graph.unit(kind, number, *key) for number in range(count)}


def shards_of(group: UnitReader) -> list[str]:
    """Names of a group's shards."""
    return [shard.name for split in group.facts_as(ShardGroupFacts).splits.values() for shard in split.shards]


def read_groups(context: StageContext) -> list[UnitReader]:
    """Readers of the unit's inputs for the groups, in the order of the groups."""
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(context.reader, context.roles(PREFIX)))


def write_groups(context: StageContext) -> list[UnitReader]:
    """Write the index that `data.prepared.pieces` reads. Returns readers of the groups' units, in order."""
    groups = read_groups(context)
    # A manifest names each input of its unit as KIND/ID.
    unit_of = {group.manifest.inputs["shards"].partition("/")[2]: group.manifest.unit for group in groups}
    context.writer.put(GROUPS, encode_groups(unit_of))
    return groups
