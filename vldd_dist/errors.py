"""Errors caused by a user's input or environment, and the exit codes of commands that they end.

Raise one of these with one sentence that names the file, key or value and says how to correct it. For mistakes in this package
use an assertion, never one of these. `message_of`, `first_line` and `did_you_mean` are parts of such sentences.
"""

import difflib
from collections.abc import Iterable

from vldd_dist.control_characters import one_line

# Phrases in the errors of torch's CPU and CUDA allocators, cuBLAS and cuDNN, of which not all are `torch.OutOfMemoryError`.
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "status_alloc_failed")

# Longest quotation of another library's error.
MOST_CHARACTERS = 300


def message_of(error: BaseException) -> str:
    """The message of another library's error in one line, cut after `MOST_CHARACTERS`; its type if it has no message."""
    return " ".join(str(error).split())[:MOST_CHARACTERS] or type(error).__name__


def first_line(error: BaseException) -> str:
    """The first line of an error's message, for errors whose further lines are a traceback; cut as by `message_of`."""
    return str(error).strip().partition("\n")[0][:MOST_CHARACTERS]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python or torch says that a device or the machine ran out of memory."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(phrase in str(error).lower() for phrase in OUT_OF_MEMORY)


def did_you_mean(name: str, names: Iterable[str], similarity: float = 0.6) -> str:
    """The end of a sentence about an unknown name: the most similar valid name, or an empty text if none is similar.

    Args:
        similarity: the least similarity, from 0 to 1, as difflib defines it.
    """
    near = difflib.get_close_matches(name, names, n=1, cutoff=similarity)
    return f"; did you mean {near[0]!r}?" if near else ""


class VlddError(Exception):
    """An error with a sentence for the user. Control characters in it are escaped, because it may quote untrusted names and
    values.

    Attributes:
        exit_code: the exit code of the command.
        may_be_of_the_machine: whether the machine may be the cause, so that a unit may succeed on another one.
    """

    exit_code = 1
    may_be_of_the_machine = False

    def __init__(self, sentence: str = "") -> None:
        super().__init__(one_line(sentence))


class ConfigError(VlddError):
    """The description of an experiment or study, or the command line, is wrong."""

    exit_code = 2


class NameTaken(ConfigError, ValueError):
    """A plug-in that is needed has the name of another one, of a package that is installed on this machine. It is a ValueError
    too, so that pydantic adds the key of the description."""

    may_be_of_the_machine = True


class InterruptedRun(VlddError):
    """The run was stopped by a signal, or ended because Ray or machines were missing. The same command resumes it."""

    exit_code = 3


class DataError(VlddError):
    """An image, caption, shard or tensor file is missing or damaged."""

    exit_code = 4


class MissingData(DataError):
    """A file or folder of the source does not exist on this machine. If none of the source does, a plan works without it."""


class OtherOnThisMachine(DataError):
    """Files of the description were read when the run was planned, and are missing or others on this machine: a disk is not
    mounted, or a copy differs."""

    may_be_of_the_machine = True


class OtherVersion(VlddError):
    """A stage of this machine's code is not the one by which the driver planned a unit, so that it would compute something else
    under the unit's id."""

    may_be_of_the_machine = True


class StoreError(VlddError):
    """The store cannot be read or written, or an object in it differs from its manifest."""

    exit_code = 4


class UnusableHere(StoreError):
    """The store, a file of the source, the hub or a local disk cannot be used from this machine now: the network, the
    credentials, the clock or the disk. It says nothing about what is stored."""

    may_be_of_the_machine = True


class Outage(UnusableHere):
    """The store, a file of the source or the hub did not answer: no connection, a time-out, a server error. Requests to the
    first two have been retried until their deadline. It may answer again after some minutes."""


class DivergenceError(VlddError):
    """Training or distillation has diverged: a loss is NaN, or grows without bound."""


class DeviceMemoryError(VlddError):
    """A unit needs more memory than its GPU or its machine has."""


class DeviceOccupied(VlddError):
    """Other processes hold the memory of a GPU that a unit has for itself."""

    may_be_of_the_machine = True
