"""Submitting an experiment or a study to a running Ray cluster. Submitting again is always safe: it resumes, or finds the job
running."""

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

from vldd_dist.config.experiment import Experiment
from vldd_dist.config.loading.load_study import LoadedStudy
from vldd_dist.errors import ConfigError
from vldd_dist.logs import VARIABLE
from vldd_dist.ray_backend.joining import TOKEN, first_line
from vldd_dist.ray_backend.submitting.secret_files import EXCLUDES, check_named_files, check_working_dir, texts_of
from vldd_dist.store.store import Store

ENDED = (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.STOPPED)


def submission_name(description: Experiment | LoadedStudy, store_url: str) -> str:
    """The same for the same description and store. A job's id is this name and a number: the id of an ended job cannot be used
    again, since Ray may still be cleaning up."""
    question = f"{json.dumps(description.model_dump(mode='json'))}\n{store_url}"
    return f"vldd-{description.name}-{sha256(question.encode()).hexdigest()[:8]}"


def submit(
    described: Experiment | LoadedStudy,
    config: str,
    overrides: list[str],
    store: str,
    address: str,
    working_dir: str,
    more: Sequence[str] = (),
) -> tuple[str, bool]:
    """Start the job, unless it is running.

    Args:
        config: path of the description, inside the working directory, or a preset's name.
        working_dir: the folder that is uploaded, without files that look like secrets (`secret_files`). Its
            jobs/runtime_env.yaml is the job's runtime environment, as of `ray job submit --runtime-env`.
        store: as every node sees it.
        address: URL of the cluster's dashboard.
        more: further arguments of `vldd run`.

    Returns:
        The job's id, and whether it was started now.

    Raises:
        ConfigError: the description is outside the working directory, that contains the home directory, the description names
            a file that is never uploaded, the store is a relative path, or the cluster cannot be reached.
    """
    root = Path(working_dir).resolve()
    check_working_dir(root)
    # A preset is known by its name where the job runs, too.
    description = config
    named_files = dict(texts_of(described.model_dump(mode="json")))
    if Path(config).exists():
        path = Path(config).resolve()
        if not path.is_relative_to(root):
            raise ConfigError(f"{config}: is outside the working directory {root}, and only that is uploaded: move it there")
        description = str(path.relative_to(root))
        named_files["the description"] = str(path)
    Store(store).require_writable()
    if "://" not in store and not Path(store).is_absolute():
        raise ConfigError(f"--store {store}: a job has another working directory: use a URL or an absolute path")
    check_named_files(root, named_files)
    entrypoint = ["python", "-m", "vldd_dist.cli", "run", description, "--store", store]
    entrypoint += [part for override in overrides for part in ("--set", override)]
    entrypoint += more
    name = submission_name(described, store)
    # It logs every file that it does not upload.
    logging.getLogger("ray").setLevel(logging.ERROR)
    with _cluster_errors(address):
        client = JobSubmissionClient(address)
        known = {
            details.submission_id: details.status
            for details in client.list_jobs()
            if details.submission_id and details.submission_id.startswith(f"{name}-")
        }
        for job, status in known.items():
            if status not in ENDED:
                return job, False
        job = f"{name}-{len(known) + 1}"
        client.submit_job(
            entrypoint=shlex.join(entrypoint),
            submission_id=job,
            runtime_env=runtime_env(root),
            metadata={"experiment": described.name, "store": store},
            # The driver only schedules; it must start even on a head node without CPUs.
            entrypoint_num_cpus=0,
        )
    return job, True


def runtime_env(root: Path) -> dict[str, Any]:
    """The job's runtime environment: that of the working directory, which is uploaded without secrets."""
    path = root / "jobs" / "runtime_env.yaml"
    given = (yaml.safe_load(path.read_text()) if path.exists() else None) or {}
    if VARIABLE in os.environ:
        # Driver and workers write their lines as this command was told to.
        given["env_vars"] = {**(given.get("env_vars") or {}), VARIABLE: os.environ[VARIABLE]}
    return given | {"working_dir": str(root), "excludes": [*(given.get("excludes") or []), *EXCLUDES]}


def jobs_of(store: str, address: str) -> list[str]:
    """One line for each job of this store that the cluster knows.

    Raises:
        ConfigError: a cluster that cannot be reached.
    """
    with _cluster_errors(address):
        jobs = JobSubmissionClient(address).list_jobs()
    return [
        f"job {job.submission_id}: {job.status.value}" + (f" ({job.message})" if job.status == JobStatus.FAILED else "")
        for job in jobs
        if (job.metadata or {}).get("store") == store
    ]


@contextmanager
def _cluster_errors(address: str) -> Iterator[None]:
    try:
        yield
    except AuthenticationError as error:
        raise ConfigError(f"--address {address}: the cluster asks for its token ({first_line(error)}): {TOKEN}") from None
    except (ConnectionError, RuntimeError) as error:
        raise ConfigError(
            f"--address {address}: the cluster cannot be reached ({first_line(error)}): check that it runs and the address"
        ) from None


def next_commands(job: str, address: str, store: str) -> str:
    """Commands a person may want next."""
    return "\n".join(
        [
            f"logs     ray job logs --address {address} --follow {job}",
            f"stop     ray job stop --address {address} {job}      (submit again to resume)",
            f"status   vldd status {shlex.quote(store)}",
            f"results  vldd list {shlex.quote(store)}",
        ]
    )
