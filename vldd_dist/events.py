"""The events of a run as typed values: reports of running units, and events of the controller.

A leaf: it imports only the standard library, so that workers, scheduler and monitoring can all import it. Units are
identified by their id. Readers (console, status, metrics, trackers) use the fields; `monitoring.live.descriptions` makes
texts for people.
"""

from collections.abc import Callable
from dataclasses import dataclass

# Reports of a running unit.


@dataclass(frozen=True)
class WorkerStarted:
    """The unit's worker process has begun: the unit no longer waits for resources."""


@dataclass(frozen=True)
class Progress:
    """The progress, speed and quality of a unit. A figure is None if the kind of unit does not have it.

    Attributes:
        done, total: numbers of whatever the unit counts (samples, outer steps or captions); the total may be unknown.
        epoch: the current epoch, from 1.
        loss: loss of the latest step.
        validation: latest mean validation recall, percent.
        samples_per_second, steps_per_second: rates since the attempt began (for an expert, since the epoch began); steps are
            outer steps.
        difference_error: relative error of finite differences at the latest check.
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
# The function by which a unit's code reports.
SendReport = Callable[[UnitReport], None]


@dataclass(frozen=True)
class UnitReported:
    """A report on its way from a worker.

    Attributes:
        node: id of the node that the worker runs on, if it is known.
    """

    unit_id: str
    report: UnitReport
    node: str | None = None


# Events of the controller.


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
    """The attempt failed, by `cause`. In `seconds` it is decided whether the unit is retried."""

    unit_id: str
    seconds: float
    cause: str


@dataclass(frozen=True)
class UnitRetried:
    """The attempt ended and the unit will be submitted again.

    Attributes:
        status: how the attempt ended, as in `pipeline.outcome.Outcome`; `slow` for a unit that is moved to
            another node.
        cause: the cause, in one sentence.
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
    """The unit failed and is not retried; `status` and `cause` as in `UnitRetried`."""

    unit_id: str
    status: str
    cause: str


@dataclass(frozen=True)
class UnitBlocked:
    """The unit cannot run, because it needs the output of a failed one."""

    unit_id: str


@dataclass(frozen=True)
class CapacityChanged:
    """The number of CPUs and GPUs of all machines together has changed."""

    cpus: float
    gpus: float


@dataclass(frozen=True)
class RunNotice:
    """Something about the run as a whole that a person should read."""

    text: str


UnitEvent = UnitReported | UnitStarted | UnitFinished | UnitPaused | UnitRetried | UnitWaits | UnitFailed | UnitBlocked
RunEvent = UnitEvent | CapacityChanged | RunNotice
