"""What can go wrong because of a user's input or surroundings, and the exit code each ends a command with.

Raise one of these with one sentence that names the file, key or value and the mend. Mistakes of our own are
assertions, never one of these.
"""

from vldd_dist.control_characters import one_line


class VlddError(Exception):
    """A failure with a sentence for the user, one line without control characters whatever names and values it quotes;
    `exit_code` is what the command ends with."""

    exit_code = 1

    def __init__(self, sentence: str = "") -> None:
        super().__init__(one_line(sentence))


class ConfigError(VlddError):
    """The experiment's description or the command line is wrong."""

    exit_code = 2


class InterruptedRun(VlddError):
    """Stopped by a signal; the store holds everything needed for the same command to go on."""

    exit_code = 3


class DataError(VlddError):
    """A picture, caption, shard or tensor file is missing or damaged."""

    exit_code = 4


class StoreError(VlddError):
    """The store cannot be read or written, or an object in it is not what its manifest says."""

    exit_code = 4


class DivergenceError(VlddError):
    """Training or distillation left the region in which it can succeed (NaN, or a loss growing without bound)."""
