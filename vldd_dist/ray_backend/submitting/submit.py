"""Submitting an experiment or a study to a running Ray cluster. Submitting again is always safe: it resumes an ended job, and
does nothing while the job is running."""

import json
import logging
import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from vldd_dist.config.described import Described
from vldd_dist.config.loading.descriptions import LoadedStudy
from vldd_dist.errors import MOST_CHARACTERS, ConfigError, VlddError, first_line
from vldd_dist.ray_backend.joining import TOKEN
from vldd_dist.ray_backend.run_options import check_store_of_job
from vldd_dist.ray_backend.submitting.ignored_files import check_uploaded
from vldd_dist.ray_backend.submitting.runtime_env import runtime_env
from vldd_dist.ray_backend.submitting.secret_files import check_working_dir, texts_of
from vldd_dist.store.store import Store

# Ray's variable for the URL of a cluster's dashboard. Its commands prefer it, and RAY_ADDRESS, to their `--address`.
ADDRESS_VARIABLE = "RAY_API_SERVER_ADDRESS"
# In the answer to an upload that is too large: aiohttp's and Ray's words for their limits, and a proxy's status.
TOO_LARGE = ("HTTPRequestEntityTooLarge", "exceeds the maximum size", "status code 413")
ENDED = (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.STOPPED)


def submission_name(described: Described, store_url: str) -> str:
    """A name that is the same for the same description and store, however the store's URL is written. A job's id is this name
    and a number, because the id of an ended job cannot be used again: Ray may still be cleaning up."""
    identity = f"{json.dumps(described.resolved())}\n{Store(store_url).url}"
    return f"vldd-{described.name}-{sha256(identity.encode()).hexdigest()[:8]}"


def submit(
    described: Described,
    config: str,
    overrides: list[str],
    store: str,
    address: str,
    working_dir: str,
    more: Sequence[str] = (),
) -> tuple[str, str | None]:
    """Start the job, unless it is already running.

    Args:
        config: path of the description, inside the working directory, or the name of a preset.
        working_dir: the folder that is uploaded, without files that look like secrets, local stores and what its
            ignore files list. Its jobs/runtime_env.yaml is used as with `ray job submit --runtime-env`.
        store: URL of the store, valid on every node.
        address: URL of the cluster's dashboard.
        more: further arguments of `vldd run`, which are no part of the description.

    Returns:
        The job's id. None if this call started it; else the further arguments with which it was started, as one line.

    Raises:
        ConfigError: the description or a study's base is outside the working directory, the working directory contains the
            home directory, the description names a file that is not uploaded, the store is a relative path,
            `jobs/runtime_env.yaml` is wrong, or the cluster cannot be reached or refuses the job.
    """
    root = Path(working_dir).resolve()
    check_working_dir(root)
    config_path = _path_in(root, config)
    Store(store).require_writable()
    check_store_of_job(store)
    named_files = dict(texts_of(described.resolved()))
    if Path(config).exists():
        named_files["the description"] = config_path
    if isinstance(described, LoadedStudy) and described.base is not None:
        named_files["base"] = _path_in(root, str(described.base), "base: ")
    check_uploaded(root, named_files)
    environment = runtime_env(root)
    entrypoint = ["python", "-m", "vldd_dist.cli", "run", config_path, "--store", store]
    entrypoint += [part for override in overrides for part in ("--set", override)]
    entrypoint += more
    # Ray would log every file that it does not upload.
    logging.getLogger("ray").setLevel(logging.ERROR)
    with _cluster_errors(address):
        client = _client(address)
        job, running_with = _next_job(client, submission_name(described, store))
        if running_with is None:
            with _refusals(address, root):
                client.submit_job(
                    entrypoint=shlex.join(entrypoint),
                    submission_id=job,
                    runtime_env=environment,
                    metadata={"experiment": described.name, "store": Store(store).url, "options": shlex.join(more)},
                    # The driver only schedules units, and it must also start on a head node without CPUs.
                    entrypoint_num_cpus=0,
                )
    return job, running_with


def _path_in(root: Path, config: str, key: str = "") -> str:
    """The path of a description in the working directory. The name of a preset is also valid where the job runs.

    Args:
        key: what the error begins with.

    Raises:
        ConfigError: the description is a file outside the working directory.
    """
    if not Path(config).exists():
        return config
    path = Path(config).resolve()
    if not path.is_relative_to(root):
        raise ConfigError(f"{key}{config}: is outside the working directory {root}, and only that is uploaded: move it into it")
    return str(path.relative_to(root))


def _next_job(client: JobSubmissionClient, name: str) -> tuple[str, str | None]:
    """The id of the job with this name that has not ended, and its `more`, as in `submit`; if there is none, the next free id,
    and None."""
    earlier_jobs = {
        details.submission_id: details
        for details in client.list_jobs()
        if details.submission_id and details.submission_id.startswith(f"{name}-")
    }
    for job, details in earlier_jobs.items():
        if details.status not in ENDED:
            return job, (details.metadata or {}).get("options", "")
    numbers = [int(end) for job in earlier_jobs if (end := job.removeprefix(f"{name}-")).isdecimal()]
    return f"{name}-{max(numbers, default=0) + 1}", None


def jobs_of(store: str, address: str) -> list[str]:
    """One line for each of the cluster's jobs that uses this store.

    Raises:
        ConfigError: the cluster cannot be reached.
    """
    with _cluster_errors(address):
        jobs = _client(address).list_jobs()
    return [
        f"job {job.submission_id or job.job_id}: {job.status.value}"
        + (f" ({job.message})" if job.status == JobStatus.FAILED else "")
        for job in jobs
        if _store_of(job) == Store(store).url
    ]


def _store_of(job: JobDetails) -> str | None:
    """The URL of the store that a job uses: `submit` records it, and the command of other jobs (`ray job submit`) names it.
    None if there is none."""
    if recorded := (job.metadata or {}).get("store"):
        return recorded
    try:
        words = shlex.split(job.entrypoint.replace("--store=", "--store "))
        named = words[words.index("--store") + 1]
        check_store_of_job(named)
        return Store(named).url
    except (ValueError, IndexError, VlddError):
        return None


def _client(address: str) -> JobSubmissionClient:
    """A client of the cluster at this address. Ray would prefer an address in its variables to the argument."""
    before = os.environ.get(ADDRESS_VARIABLE)
    os.environ[ADDRESS_VARIABLE] = address
    try:
        return JobSubmissionClient(address)
    finally:
        del os.environ[ADDRESS_VARIABLE]
        if before is not None:
            os.environ[ADDRESS_VARIABLE] = before


@contextmanager
def _cluster_errors(address: str) -> Iterator[None]:
    try:
        yield
    except AuthenticationError as error:
        raise ConfigError(f"--address {address}: the cluster asks for its token ({first_line(error)}): {TOKEN}") from None
    # The errors of `requests`, which Ray's client does not catch, are OSErrors; an answer of another program is a ValueError.
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"--address {address}: the cluster cannot be reached ({first_line(error)}): check the address, and that it runs"
        ) from None


@contextmanager
def _refusals(address: str, root: Path) -> Iterator[None]:
    """For the errors of an upload and its job; those of the connection are left to `_cluster_errors`."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            raise
        raise ConfigError(
            f"--working-dir {root}: {error.filename} cannot be read ({error.strerror}): list it in .rayignore"
        ) from None
    except RuntimeError as error:
        if any(words in str(error) for words in TOO_LARGE):
            raise ConfigError(
                f"--working-dir {root}: its files are more than the cluster accepts (Ray's limit is 100 MiB, that of a proxy "
                "may be lower): list large ones in .rayignore, or submit from a folder with only what the job needs"
            ) from None
        raise ConfigError(f"--address {address}: the cluster refused the job ({_answer(error)})") from None


def _answer(error: RuntimeError) -> str:
    """What the cluster answered, in one line: of a traceback its last line, which names the error."""
    status, traceback, _ = str(error).strip().partition("Traceback (most recent call last):")
    return f"{status}{str(error).strip().splitlines()[-1]}"[:MOST_CHARACTERS] if traceback else first_line(error)


def next_commands(job: str, address: str, store: str) -> str:
    """The commands that a user may want next, one in each line."""
    return "\n".join(
        [
            f"logs     {ADDRESS_VARIABLE}={address} ray job logs --follow {job}",
            f"stop     {ADDRESS_VARIABLE}={address} ray job stop {job}      (submit again to resume)",
            f"status   vldd status {shlex.quote(store)}",
            f"results  vldd list {shlex.quote(store)}",
        ]
    )
