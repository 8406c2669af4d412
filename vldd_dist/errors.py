"""Errors caused by a user's input or surroundings, and the exit code with which each ends a command.

Raise one of these with one sentence that names the file, key or value and says how to mend it. A mistake in this package is
an assertion, never one of these.
"""

from vldd_dist.control_characters import one_line


class VlddError(Exception):
    """An error with a sentence for the user. The sentence is one line without control characters, whatever names and values it
    quotes. `exit_code` is the exit code of the command."""

    exit_code = 1

    def __init__(self, sentence: str = "") -> None:
        super().__init__(one_line(sentence))


class ConfigError(VlddError):
    """The experiment's description or the command line is wrong."""

    exit_code = 2


class InterruptedRun(VlddError):
    """The run was stopped by a signal. The same command resumes it from what is in the store."""

    exit_code = 3


class DataError(VlddError):
    """A image, caption, shard or tensor file is missing or damaged."""

    exit_code = 4


class MissingData(DataError):
    """The data are not here, which a plan can do without; damaged data are another matter."""


class StoreError(VlddError):
    """The store cannot be read or written, or an object in it is not what its manifest says."""

    exit_code = 4


class DivergenceError(VlddError):
    """Training or distillation has diverged: a loss is NaN, or grows without bound."""


class DeviceMemoryError(VlddError):
    """A unit needs more memory than its GPU, or its machine, has."""
