"""Where an experiment stands, as its driver last said: one small object that anyone who reads the store can read.

    status/NAME.json    of the experiment NAME, written over while its driver lives

The manifests say what is done; this says what runs, how fast, and what went wrong. Nothing is decided by it.
"""

from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from vldd_dist.storage.manifests import from_json, to_json
from vldd_dist.storage.store import Store

FOLDER = "status"


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StageStatus(Part):
    """Units of one kind."""

    total: int
    done: int
    failed: int = Field(description="ended for good without output, or need one that did")


class RunningUnit(Part):
    """A unit at work."""

    label: str
    seconds: float = Field(description="since it began")
    event: dict[str, Any] = Field(description="its last report: done, total, loss and so on")


class RunStatus(Part):
    """An experiment's driver at one moment."""

    schema_version: Literal[2] = 2
    kind: Literal["run_status"] = "run_status"
    experiment: str
    state: Literal["running", "done", "failed", "stopped"]
    stages: dict[str, StageStatus]
    running: list[RunningUnit]
    time_left: str
    notices: list[str] = Field(description="the latest failures, retries and other things a person should read")
    written_at: str = Field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    @property
    def age_seconds(self) -> float:
        """Since it was written."""
        return (datetime.now(UTC) - datetime.fromisoformat(self.written_at)).total_seconds()


def write_status(store: Store, status: RunStatus) -> None:
    """Raises StoreError as any write."""
    store.write(f"{FOLDER}/{status.experiment}.json", to_json(status))


def read_statuses(store: Store) -> list[RunStatus]:
    """Of every experiment that has run in this store."""
    keys = [key for key in store.list(FOLDER) if key.endswith(".json")]
    return [from_json(RunStatus, store.read(key), store.url_of(key)) for key in keys]
