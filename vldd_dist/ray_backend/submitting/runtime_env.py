"""The runtime environment of a submitted job: its environment variables, and which files are uploaded."""

import os
from pathlib import Path
from typing import Any

from pathspec import GitIgnoreSpec
from ray.runtime_env import RuntimeEnv

from vldd_dist.config.loading import strict_yaml
from vldd_dist.errors import ConfigError, first_line
from vldd_dist.logs import VARIABLE
from vldd_dist.ray_backend.submitting.ignored_files import never_sent
from vldd_dist.ray_backend.submitting.secret_files import EXCLUDES

# How long Ray waits for a driver to end after `ray job stop`, as text.
JOB_STOP_SECONDS = "60"


def runtime_env(root: Path) -> dict[str, Any]:
    """The job's runtime environment: that of `jobs/runtime_env.yaml`, with the working directory to upload, without secrets and
    local stores.

    Raises:
        ConfigError: `jobs/runtime_env.yaml` is not a runtime environment, or a link leads to the home directory.
    """
    environment = _environment(root / "jobs" / "runtime_env.yaml")
    # Ray otherwise kills a driver three seconds after `ray job stop`, before the units have stored their checkpoints.
    variables = {"RAY_JOB_STOP_WAIT_TIME_S": JOB_STOP_SECONDS, **(environment.get("env_vars") or {})}
    if VARIABLE in os.environ:
        # The driver and the workers log in the same format as this command.
        variables[VARIABLE] = os.environ[VARIABLE]
    excludes = [*(environment.get("excludes") or []), *EXCLUDES]
    excludes = [*never_sent(root, excludes), *excludes]
    return environment | {"env_vars": variables, "working_dir": str(root), "excludes": excludes}


def _environment(path: Path) -> dict[str, Any]:
    """The checked content of the file; empty if there is none. Ray would check it only after the upload."""
    if not path.exists():
        return {}
    try:
        environment = strict_yaml.parse(path.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}): make it readable, or remove it") from None
    except ValueError as error:
        raise ConfigError(f"{path}: cannot be read as YAML: {error}") from None
    if not isinstance(environment, dict):
        raise ConfigError(f"{path}: expected a mapping with keys such as env_vars; found {type(environment).__name__}")
    variables = environment.get("env_vars") or {}
    if not isinstance(variables, dict):
        raise ConfigError(f"{path}: env_vars: expected a mapping of names to texts; found {type(variables).__name__}")
    for name, value in variables.items():
        if not isinstance(value, str):
            raise ConfigError(f"{path}: env_vars.{name}: {value!r} is not a text: write it in quotes")
    try:
        RuntimeEnv(**environment)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path}: {first_line(error)}") from None
    try:
        GitIgnoreSpec.from_lines(environment.get("excludes") or [])
    except ValueError as error:
        raise ConfigError(f"{path}: excludes: {first_line(error)}") from None
    return environment
