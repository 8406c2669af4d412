"""What happens during a run, as typed values: what a unit reports while it runs, and what the controller says of its units.

A leaf: standard library only, so that workers, scheduler and monitoring may all import it. Units are named by their id. Readers
(console, status, metrics, trackers) use fields; texts for people are made in `monitoring.descriptions`.
"""

from collections.abc import Callable
from dataclasses import dataclass

# What a unit reports while it runs.


@dataclass(frozen=True)
class WorkerStarted:
    """The unit's worker process has begun: the unit no longer waits for resources."""


@dataclass(frozen=True)
class Progress:
    """How far a unit is, and how fast and how well it goes; None where a kind of unit has no such figure.

    Attributes:
        done, total: samples, outer steps or captions, whatever the unit counts; the total may be unknown.
        epoch: the current one, from 1.
        loss: of the latest step.
        validation: latest mean validation recall, percent.
        samples_per_second, steps_per_second: since this attempt (an expert: this epoch) began; steps are outer steps.
        difference_error: relative error of finite differences at their latest check.
    """

    done: int
    total: int | None
    epoch: int | None = None
    loss: float | None = None
    validation: float | None = None
    samples_per_second: float | None = None
    steps_per_second: float | None = None
    difference_error: float | None = None

    @property
    def speed(self) -> float | None:
        """Samples or steps per second, whichever the unit reports."""
        return self.steps_per_second if self.samples_per_second is None else self.samples_per_second


@dataclass(frozen=True)
class Notice:
    """Something that a person should read."""

    text: str


UnitReport = WorkerStarted | Progress | Notice
# How a unit's code reports.
Report = Callable[[UnitReport], None]


@dataclass(frozen=True)
class UnitReported:
    """A report on its way from a worker.

    Attributes:
        node: id of the node the worker runs on, where it is known.
    """

    unit_id: str
    report: UnitReport
    node: str | None = None


# What the controller says.


@dataclass(frozen=True)
class UnitStarted:
    """The unit's resources are reserved: it runs, or its worker is about to start."""

    unit_id: str


@dataclass(frozen=True)
class UnitFinished:
    """The unit is committed; `seconds` since it started."""

    unit_id: str
    seconds: float


@dataclass(frozen=True)
class UnitPaused:
    """The attempt failed; whether the unit is tried again is decided in `seconds`."""

    unit_id: str
    seconds: float


@dataclass(frozen=True)
class UnitRetried:
    """The attempt ended and the unit will be submitted again.

    Attributes:
        status: how the attempt ended, as in `pipeline.outcome.Outcome`; `slow` for a straggler that is moved.
        cause: one sentence.
    """

    unit_id: str
    status: str
    cause: str


@dataclass(frozen=True)
class UnitWaits:
    """The attempt stored its state and ended, because it needs an input that is not committed yet."""

    unit_id: str
    input_id: str


@dataclass(frozen=True)
class UnitFailed:
    """The unit is not tried again; `status` and `cause` as in `UnitRetried`."""

    unit_id: str
    status: str
    cause: str


@dataclass(frozen=True)
class UnitBlocked:
    """The unit cannot run, because it needs the output of a failed one."""

    unit_id: str


@dataclass(frozen=True)
class CapacityChanged:
    """CPUs and GPUs of all machines together."""

    cpus: float
    gpus: float


@dataclass(frozen=True)
class RunNotice:
    """Something about the run as a whole that a person should read."""

    text: str


UnitEvent = UnitReported | UnitStarted | UnitFinished | UnitPaused | UnitRetried | UnitWaits | UnitFailed | UnitBlocked
RunEvent = UnitEvent | CapacityChanged | RunNotice
