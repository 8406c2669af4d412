"""The options of a run, in a file that can be imported without Ray."""

from dataclasses import dataclass


@dataclass(frozen=True)
class RunOptions:
    """What to run and how; nothing here changes a result.

    Attributes:
        until: the milestone of the last stage to run; None: all stages.
        track: experiment trackers, each as NAME=TARGET (see `monitoring.live.trackers`).
        max_running: the largest number of units at once, at least 1; None: as many as fit.
        wait_hours: how long the run waits for machines while none of its units runs.
    """

    until: str | None = None
    track: tuple[str, ...] = ()
    max_running: int | None = None
    wait_hours: float = 1.0


DEFAULTS = RunOptions()
