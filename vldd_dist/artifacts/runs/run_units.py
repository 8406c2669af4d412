"""The units of a run. The driver writes this record before it begins, so that `vldd gc` knows what a running run needs
without making its graph, for which it would need the run's data and the version of the code that the run has.

    runs/NAME/RUN.json    of the run RUN of the experiment or study NAME

RUN is a hash of all units of the run's graph. So the same experiment with other workers or GPUs, or only until a certain stage,
is the same run, and one with another output is another run.
"""

from collections.abc import Iterable
from hashlib import sha256
from typing import Annotated, Literal, Self

from pydantic import Field

from vldd_dist.artifacts.keys import run_units_key
from vldd_dist.artifacts.manifests import Sealed, from_json, to_json
from vldd_dist.store.store import Store

RunId = Annotated[str, Field(pattern="^[0-9a-f]{8}$", description="a hash of all units of the run's graph")]


class RunUnits(Sealed):
    """The units of a run's whole graph, also if the run ends at an earlier stage."""

    schema_version: Literal[2] = 2
    kind: Literal["run_units"] = "run_units"
    experiment: str
    run: RunId
    units: list[Annotated[str, Field(pattern="^[^/]+/[0-9a-f]{16}$")]] = Field(description="each as KIND/ID, sorted")

    @classmethod
    def of(cls, experiment: str, units: Iterable[tuple[str, str]]) -> Self:
        """The record of a run with these units, each as (kind, id)."""
        lines = sorted(f"{kind}/{unit_id}" for kind, unit_id in units)
        run = sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()[:8]
        return cls(experiment=experiment, run=run, units=lines)


def write_run_units(store: Store, record: RunUnits) -> None:
    """Write the record; a resumed run writes the same bytes. Raises StoreError."""
    store.write(run_units_key(record.experiment, record.run), to_json(record))


def read_run_units(store: Store, experiment: str, run: str) -> set[tuple[str, str]]:
    """(kind, id) of every unit of a run.

    Raises:
        MissingObject: there is no record of this run.
        DamagedObject: the record is damaged.
        StoreError: it cannot be read.
    """
    key = run_units_key(experiment, run)
    record = from_json(RunUnits, store.read(key), store.url_of(key))
    return {(kind, unit_id) for kind, _, unit_id in (unit.partition("/") for unit in record.units)}
