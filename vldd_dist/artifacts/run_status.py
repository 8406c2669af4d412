"""Where an experiment stands, as its driver last said: one small object that anyone who reads the store can read.

    status/NAME.json    of the experiment NAME, written over while its driver lives

The manifests say what is done; this says what runs, how fast, and what went wrong. Nothing is decided by it.
"""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from vldd_dist.artifacts.facts import Count
from vldd_dist.artifacts.manifests import Sealed, from_json, to_json
from vldd_dist.errors import StoreError
from vldd_dist.store.store import Store

FOLDER = "status"


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _moment(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("a time without its zone")
    return text


class StageStatus(Part):
    """Units of one kind."""

    total: Count
    done: Count
    failed: Count = Field(description="ended for good without output, or need one that did")


class UnitEvent(Part):
    """What a unit last reported of its progress; there may be more."""

    model_config = ConfigDict(extra="allow")

    done: Count | None = None
    total: Count | None = None
    epoch: Count | None = None
    samples_per_second: float | None = None
    steps_per_second: float | None = None
    loss: float | None = None
    validation: float | None = None
    silent_seconds: Annotated[float, Field(ge=0)] | None = None


def known_event(report: dict[str, Any]) -> dict[str, Any]:
    """What a status tells of a worker's report; what is not as it should be, a loss that is not finite say, is left out."""
    known = {key: value for key, value in report.items() if key in UnitEvent.model_fields}
    try:
        return _checked_event(known)
    except ValidationError as error:
        wrong = {problem["loc"][0] for problem in error.errors()}
        return _checked_event({key: value for key, value in known.items() if key not in wrong})


def _checked_event(event: dict[str, Any]) -> dict[str, Any]:
    return UnitEvent.model_validate(event).model_dump(exclude_none=True)


class RunningUnit(Part):
    """A unit at work."""

    label: str
    seconds: float = Field(description="since it began")
    event: Annotated[dict[str, Any], AfterValidator(_checked_event)] = Field(
        description="its last report: done, total, loss and so on; silent_seconds since then"
    )


class RunStatus(Sealed):
    """An experiment's driver at one moment."""

    schema_version: Literal[2] = 2
    kind: Literal["run_status"] = "run_status"
    experiment: str
    state: Literal["running", "done", "failed", "stopped"]
    stages: dict[str, StageStatus]
    running: list[RunningUnit]
    time_left: str
    notices: list[str] = Field(description="the latest failures, retries and other things a person should read")
    written_at: Annotated[str, AfterValidator(_moment)] = Field(
        default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds")
    )

    @property
    def age_seconds(self) -> float:
        """Since it was written."""
        return (datetime.now(UTC) - datetime.fromisoformat(self.written_at)).total_seconds()


def write_status(store: Store, status: RunStatus) -> None:
    """Raises StoreError as any write."""
    store.write(f"{FOLDER}/{status.experiment}.json", to_json(status))


def read_statuses(store: Store) -> list[RunStatus | StoreError]:
    """Of every experiment that has run in this store, or why it cannot be read."""
    found: list[RunStatus | StoreError] = []
    for key in store.list(FOLDER):
        if key.endswith(".json"):
            try:
                found.append(from_json(RunStatus, store.read(key), store.url_of(key)))
            except StoreError as error:
                found.append(error)
    return found
