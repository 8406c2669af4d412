"""To which class of failure an exception belongs, and the cause that is reported to the user."""

import errno
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from ray.core.generated.common_pb2 import ActorDiedErrorContext
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    NodeDiedError,
    ObjectLostError,
    OutOfDiskError,
    OutOfMemoryError,
    RayError,
    RaySystemError,
    RayTaskError,
    RuntimeEnvSetupError,
    WorkerCrashedError,
)

from vldd_dist.config.loading.load import load_experiment
from vldd_dist.errors import DataError
from vldd_dist.ray_backend.workers.errors import outcome_of_error
from vldd_dist.ray_backend.workers.exceptions import describe, is_of_the_machine, plain


def raised(action: object) -> Exception:
    """The exception that a call raises, with its traceback."""
    try:
        action()  # type: ignore[operator]
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def died(sentence: str) -> ActorDiedError:
    """The exception that Ray makes from its control service's message; the messages are those of Ray 2.60."""
    return ActorDiedError(ActorDiedErrorContext(error_message=sentence, class_name="UnitActor", actor_id=b"1" * 16))


def task_error(cause: Exception) -> RayTaskError:
    """An exception as it arrives from a worker: its cause has no traceback any more."""
    text = 'Traceback (most recent call last):\n  File "/x/vldd_dist/pipeline/stages.py", line 7, in run\nOSError: no'
    error = RayTaskError("run", text, cause, proctitle="ray::features of expert 0", pid=9835, ip="10.0.0.1")
    return RayError.from_bytes(error.to_bytes())


NODE_DIED = "The actor died because its node has died. Node Id: 1f, Ip address: 10.0.0.1, Port: 1, Reason: it is gone"
WORKER_DIED = "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: x"


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (NodeDiedError("the node is gone"), "lost", "its process or machine ended: the node is gone"),
        (ObjectLostError("ab", None, ""), "lost", "Failed to retrieve object ab"),
        (ActorUnavailableError("no answer", None), "lost", "no answer"),
        (died(NODE_DIED), "lost", "its process or machine ended"),
        (died(WORKER_DIED), "killed", "its process was killed"),
        (WorkerCrashedError(), "killed", "its process was killed"),
        (OutOfMemoryError("Memory on the node was low\nmore"), "killed", "short of memory: Memory on the node was low"),
        (RuntimeEnvSetupError("no such package"), "broken", "no such package"),
        (RaySystemError("cannot unpickle"), "broken", "cannot unpickle"),
        (OutOfDiskError("full"), "broken", "full"),
        (task_error(ModuleNotFoundError("No module named 'x'")), "broken", "ModuleNotFoundError at pipeline/stages.py:7"),
        (ActorDiedError(task_error(FileNotFoundError(2, "No such file"))), "broken", "error raised in its creation task"),
    ],
)
def test_each_ray_error_counts_against_the_node_the_worker_or_the_environment(error: Exception, status: str, told: str) -> None:
    outcome = outcome_of_error(error)
    assert (outcome.status, outcome.exit_code) == (status, 1)
    assert told in outcome.cause
    assert not any(ord(character) < 32 or ord(character) == 127 for character in outcome.cause)


def test_a_cause_is_that_of_the_innermost_exception_at_a_line_of_ours() -> None:
    def read() -> None:
        raise RuntimeError("a library's own words") from OSError(5, "\x1b[31mbad\x1b[0m disk\r\n", "f")

    here = f"{Path(__file__).name}:{read.__code__.co_firstlineno + 1}"
    assert describe(raised(read)) == f"OSError at {here}: [Errno 5] bad disk : 'f'"
    missing = raised(lambda: load_experiment("no/such/file.yaml"))
    assert describe(missing).startswith("ConfigError at config/loading/load.py:")
    assert describe(task_error(ValueError("no"))) == "ValueError at pipeline/stages.py:7: no"
    # The beginning and the end of a long message are kept: the reason is mostly at its end.
    long = describe(ValueError("begin " + "x" * 1000 + " end"))
    assert "begin" in long
    assert long.endswith("end")
    assert len(long) < 450


def test_text_of_other_programs_becomes_one_line_without_escape_sequences() -> None:
    assert (
        plain("\x1b[36mray::f()\x1b[39m (pid=1)\n  \x1b]0;title\x07a\x1b]8;;http://x\x1b\\b\x9b1mc\x00")
        == "ray::f() (pid=1) abc"
    )


def of_a_removed_working_directory(gone: Path) -> BaseException:
    """The error, from a process of its own, because a process cannot leave a directory that is removed."""
    gone.mkdir()
    program = f"""
import os, pickle, shutil, sys
os.chdir({str(gone)!r})
shutil.rmtree({str(gone)!r})
try:
    os.getcwd()
except FileNotFoundError as error:
    sys.stdout.buffer.write(pickle.dumps(error))
"""
    error: BaseException = pickle.loads(subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout)
    return error


def test_import_working_directory_and_ray_errors_count_as_broken(tmp_path: Path) -> None:
    assert is_of_the_machine(of_a_removed_working_directory(tmp_path / "gone"))
    assert is_of_the_machine(raised(lambda: __import__("no_such_module")))
    wrapped = RuntimeError("in a library")
    wrapped.__cause__ = ImportError("no operator")
    assert is_of_the_machine(wrapped)
    assert is_of_the_machine(AttributeError("partially initialized module 'torch' has no attribute 'x'"))
    assert is_of_the_machine(died(NODE_DIED))
    for of_a_gpu in (
        "No CUDA GPUs are available",
        "The NVIDIA driver on your system is too old (found version 11000)",
        "CUDA error: uncorrectable ECC error encountered",
        "CUDA error: unspecified launch failure",
    ):
        assert is_of_the_machine(RuntimeError(of_a_gpu))
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENOMEM):
        assert is_of_the_machine(OSError(number, os.strerror(number), "/tmp/x"))
    for of_the_unit in (
        FileExistsError(errno.EEXIST, "File exists", "/tmp/x"),
        raised(lambda: (tmp_path / "no-file").read_text()),
        ValueError("no"),
        RuntimeError("CUDA error: device-side assert triggered"),
        AttributeError("'X' object has no attribute 'y'"),
        DataError("a.jpg: damaged"),
    ):
        assert not is_of_the_machine(of_the_unit)
