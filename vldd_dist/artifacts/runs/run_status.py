"""The status of a run, a small object that its driver writes regularly and anyone with access to the store can read.

    status/NAME/RUN.json    of the run RUN (see `run_units`) of the experiment or study NAME, overwritten while its driver runs

Manifests say which units are done; the status says what is running, how fast, and what went wrong. It is displayed, and tells
`vldd gc` whose units are needed.
"""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, NonNegativeFloat, ValidationError

from vldd_dist.artifacts.facts import Count
from vldd_dist.artifacts.keys import STATUS, status_key
from vldd_dist.artifacts.manifests import Sealed, from_json, to_json
from vldd_dist.artifacts.runs.run_units import RunId
from vldd_dist.errors import StoreError
from vldd_dist.store.objects import PARALLEL_READS
from vldd_dist.store.store import Store
from vldd_dist.strict_model import StrictModel


def _moment(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("a time without a time zone")
    return text


class StageStatus(StrictModel):
    """Numbers of units of one kind."""

    total: Count
    done: Count
    failed: Count = Field(description="units that failed permanently, or need a unit that failed")


class UnitFigures(StrictModel):
    """The figures of a running unit: those of its last report (`events.Progress`) and the time since then. A later version may
    store further ones."""

    model_config = ConfigDict(extra="allow")

    done: Count | None = None
    total: Count | None = None
    epoch: Count | None = None
    samples_per_second: float | None = None
    steps_per_second: float | None = None
    loss: float | None = None
    validation: float | None = None
    difference_error: float | None = None
    silent_seconds: NonNegativeFloat | None = None


def known_figures(figures: dict[str, Any]) -> dict[str, Any]:
    """The figures of a unit that a status shows, without invalid ones (for example a loss that is not finite)."""
    shown = {key: value for key, value in figures.items() if key in UnitFigures.model_fields}
    try:
        return _checked(shown)
    except ValidationError as error:
        wrong = {problem["loc"][0] for problem in error.errors()}
        return _checked({key: value for key, value in shown.items() if key not in wrong})


def _checked(figures: dict[str, Any]) -> dict[str, Any]:
    return UnitFigures.model_validate(figures).model_dump(exclude_none=True)


class UnitStatus(StrictModel):
    """The status of a running unit."""

    label: str
    seconds: float = Field(description="time since the unit started")
    event: Annotated[dict[str, Any], AfterValidator(_checked)] = Field(
        description="its last report: done, total, loss etc.; silent_seconds is the time since then"
    )


class RunStatus(Sealed):
    """The state of a run's driver at one moment."""

    schema_version: Literal[2] = 2
    kind: Literal["run_status"] = "run_status"
    experiment: str
    run: RunId
    state: Literal["running", "done", "failed", "stopped"]
    stages: dict[str, StageStatus]
    running: list[UnitStatus]
    time_left: str
    notices: list[str] = Field(description="the latest failures, retries and other messages for users")
    written_at: Annotated[str, AfterValidator(_moment)] = Field(
        default_factory=lambda: datetime.now(UTC).isoformat(timespec="microseconds")
    )

    @property
    def moment(self) -> datetime:
        """When it was written."""
        return datetime.fromisoformat(self.written_at)

    @property
    def age_seconds(self) -> float:
        """Seconds since it was written."""
        return (datetime.now(UTC) - self.moment).total_seconds()


def write_status(store: Store, status: RunStatus) -> None:
    """Write the status of its run. Raises StoreError."""
    store.write(status_key(status.experiment, status.run), to_json(status))


def read_status(store: Store, experiment: str, run: str) -> RunStatus:
    """The status of one run. Raises StoreError if it cannot be read, MissingObject if there is none."""
    return _read(store, status_key(experiment, run))


def read_statuses(store: Store, experiment: str | None = None) -> list[RunStatus | StoreError]:
    """The status of every run in this store, or the error if it cannot be read.

    Args:
        experiment: only the runs of this name.
    """
    keys = [key for key in store.keys(f"{STATUS}/{experiment}" if experiment else STATUS) if key.endswith(".json")]
    # Each of many attempts with other settings leaves one, and a request to a remote store takes a while.
    with ThreadPoolExecutor(PARALLEL_READS) as pool:
        return list(pool.map(lambda key: _read_or_error(store, key), keys))


def _read_or_error(store: Store, key: str) -> RunStatus | StoreError:
    try:
        return _read(store, key)
    except StoreError as error:
        return error


def _read(store: Store, key: str) -> RunStatus:
    return from_json(RunStatus, store.read(key), store.url_of(key))
