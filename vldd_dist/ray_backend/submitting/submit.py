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
from typing import Any

import yaml
from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient

from vldd_dist.config.described import Described
from vldd_dist.errors import ConfigError, first_line
from vldd_dist.logs import VARIABLE
from vldd_dist.ray_backend.joining import TOKEN
from vldd_dist.ray_backend.submitting.secret_files import EXCLUDES, check_named_files, check_working_dir, texts_of
from vldd_dist.store.store import Store

# Ray's variable for the URL of a cluster's dashboard. Its commands prefer it, and RAY_ADDRESS, to their `--address`.
ADDRESS_VARIABLE = "RAY_API_SERVER_ADDRESS"
# How long Ray waits for a driver to end after `ray job stop`, as text.
STOP_SECONDS = "60"
ENDED = (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.STOPPED)


def submission_name(description: Described, store_url: str) -> str:
    """A name that is the same for the same description and store. A job's id is this name and a number, because the id of an
    ended job cannot be used again: Ray may still be cleaning up."""
    identity = f"{json.dumps(description.resolved())}\n{store_url}"
    return f"vldd-{description.name}-{sha256(identity.encode()).hexdigest()[:8]}"


def submit(
    described: Described,
    config: str,
    overrides: list[str],
    store: str,
    address: str,
    working_dir: str,
    more: Sequence[str] = (),
) -> tuple[str, bool]:
    """Start the job, unless it is already running.

    Args:
        config: path of the description, inside the working directory, or the name of a preset.
        working_dir: the folder that is uploaded, without files that look like secrets (`secret_files`). Its
            jobs/runtime_env.yaml is used as with `ray job submit --runtime-env`.
        store: URL of the store, valid on every node.
        address: URL of the cluster's dashboard.
        more: further arguments of `vldd run`.

    Returns:
        The job's id, and whether this call started it.

    Raises:
        ConfigError: the description is outside the working directory, the working directory contains the home directory, the
            description names a file that is never uploaded, the store is a relative path, or the cluster cannot be reached.
    """
    root = Path(working_dir).resolve()
    check_working_dir(root)
    description = _path_in(root, config)
    Store(store).require_writable()
    if "://" not in store and not Path(store).is_absolute():
        raise ConfigError(f"--store {store}: a job runs in another working directory: use a URL or an absolute path")
    named_files = dict(texts_of(described.resolved()))
    if Path(config).exists():
        named_files["the description"] = str(Path(config).resolve())
    check_named_files(root, named_files)
    entrypoint = ["python", "-m", "vldd_dist.cli", "run", description, "--store", store]
    entrypoint += [part for override in overrides for part in ("--set", override)]
    entrypoint += more
    # Ray would log every file that it does not upload.
    logging.getLogger("ray").setLevel(logging.ERROR)
    with _cluster_errors(address):
        client = _client(address)
        job, is_running = _next_job(client, submission_name(described, store))
        if not is_running:
            client.submit_job(
                entrypoint=shlex.join(entrypoint),
                submission_id=job,
                runtime_env=runtime_env(root),
                metadata={"experiment": described.name, "store": store},
                # The driver only schedules units, and it must also start on a head node without CPUs.
                entrypoint_num_cpus=0,
            )
    return job, not is_running


def _path_in(root: Path, config: str) -> str:
    """The path of the description in the working directory. The name of a preset is also valid where the job runs.

    Raises:
        ConfigError: the description is a file outside the working directory.
    """
    if not Path(config).exists():
        return config
    path = Path(config).resolve()
    if not path.is_relative_to(root):
        raise ConfigError(f"{config}: is outside the working directory {root}, and only that is uploaded: move it into it")
    return str(path.relative_to(root))


def _next_job(client: JobSubmissionClient, name: str) -> tuple[str, bool]:
    """The id of the job with this name that has not ended, and True; if there is none, the next free id, and False."""
    earlier_jobs = {
        details.submission_id: details.status
        for details in client.list_jobs()
        if details.submission_id and details.submission_id.startswith(f"{name}-")
    }
    for job, status in earlier_jobs.items():
        if status not in ENDED:
            return job, True
    numbers = [int(end) for job in earlier_jobs if (end := job.removeprefix(f"{name}-")).isdecimal()]
    return f"{name}-{max(numbers, default=0) + 1}", False


def runtime_env(root: Path) -> dict[str, Any]:
    """The job's runtime environment: that of `jobs/runtime_env.yaml`, with the working directory to upload, without secrets."""
    path = root / "jobs" / "runtime_env.yaml"
    environment = (yaml.safe_load(path.read_text()) if path.exists() else None) or {}
    # Ray otherwise kills a driver three seconds after `ray job stop`, before the units have stored their checkpoints.
    variables = {"RAY_JOB_STOP_WAIT_TIME_S": STOP_SECONDS, **(environment.get("env_vars") or {})}
    if VARIABLE in os.environ:
        # The driver and the workers log in the same format as this command.
        variables[VARIABLE] = os.environ[VARIABLE]
    environment["env_vars"] = variables
    return environment | {"working_dir": str(root), "excludes": [*(environment.get("excludes") or []), *EXCLUDES]}


def jobs_of(store: str, address: str) -> list[str]:
    """One line for each of the cluster's jobs that uses this store.

    Raises:
        ConfigError: the cluster cannot be reached.
    """
    with _cluster_errors(address):
        jobs = _client(address).list_jobs()
    return [
        f"job {job.submission_id}: {job.status.value}" + (f" ({job.message})" if job.status == JobStatus.FAILED else "")
        for job in jobs
        if (job.metadata or {}).get("store") == store
    ]


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
    except (ConnectionError, RuntimeError) as error:
        raise ConfigError(
            f"--address {address}: the cluster cannot be reached ({first_line(error)}): check the address, and that it runs"
        ) from None


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
