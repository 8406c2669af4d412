"""The units of a small experiment, committed without being computed."""

from vldd_dist.artifacts.facts import Facts
from vldd_dist.artifacts.unit_writer import UnitWriter
from vldd_dist.artifacts.units import is_done
from vldd_dist.config.experiment import Experiment
from vldd_dist.config.loading.load import load_experiment
from vldd_dist.pipeline.graphs.experiment import Graph
from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny import TINY

SMALL = [*TINY, "distill.pairs=[3]", "coresets.methods=[random]", "experts.count=1"]
# For `vldd gc`: objects of any age are removed.
NOW = ("--min-age-hours", "0")


def committed(store: Store, *overrides: str) -> tuple[Experiment, list[WorkUnit]]:
    """An experiment with committed units, each of which has its own object and a blob that all experiments share."""
    tree = load_experiment("scenes", [*SMALL, *overrides])
    units = Graph(tree).units()
    for unit in units:
        if not is_done(store, unit.kind, unit.id):
            writer = UnitWriter(store, unit.kind, unit.id, {}, {})
            writer.put("own", unit.id.encode())
            writer.adopt("shared", writer.put_blob(b"shared by all"))
            writer.adopt("blob", writer.put_blob(unit.id.encode()))
            writer.commit(Facts())
    for unit in units:
        if unit.kind == "publication":
            for name in ("manifest.json", "pairs.safetensors"):
                store.write(f"distilled/{tree.name}-3pairs-seed0-{unit.id[:8]}/{name}", b"{}")
    return tree, units


def done(store: Store, units: list[WorkUnit]) -> set[str]:
    """The ids of those of the units that the store has."""
    return {unit.id for unit in units if is_done(store, unit.kind, unit.id)}
