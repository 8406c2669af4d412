"""Reading a description: YAML and overrides."""

import os
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vldd_dist.config.base import check_gpus
from vldd_dist.config.experiment import Experiment
from vldd_dist.config.loading import strict_yaml
from vldd_dist.config.loading.presets import preset_names, preset_path
from vldd_dist.config.loading.problems import first_problem, short
from vldd_dist.config.overrides import Key, names_first, set_key
from vldd_dist.errors import ConfigError

MOST_BYTES = 1 << 18


def load_experiment(path: str | Path, overrides: list[str] | None = None) -> Experiment:
    """Read and check a description.

    Args:
        path: a YAML file; if there is no such file, the name of a preset.
        overrides: each `section.key=value`, with the value written as in YAML.

    Raises:
        ConfigError: one sentence that names the file and the key, and how to correct it where that is known.
    """
    path = description_path(path)
    return experiment_of(read_tree(path), path, overrides or [])


def experiment_of(tree: dict[str, Any], source: Path | str, overrides: list[str]) -> Experiment:
    """Check a description, as `load_experiment` does.

    Args:
        tree: the mapping in the source, which is changed.
        source: the file or whatever else has the description, for the error.
    """
    apply_overrides(tree, overrides)
    try:
        return Experiment.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(f"{source}: {first_problem(error)}") from None


def resource_overrides(gpus: float | None, gpu_memory: float | None = None) -> list[str]:
    """Overrides of `resources` in every section.

    Args:
        gpus: the part of a GPU that each worker gets; None: as described.
        gpu_memory: memory of a worker's GPU in GiB; None: as described.

    Raises:
        ConfigError: more than one GPU, or no memory.
    """
    try:
        check_gpus(gpus or 0)
    except ValueError as error:
        raise ConfigError(f"--gpus {gpus:g}: {error}") from None
    if gpu_memory is not None and gpu_memory <= 0:
        raise ConfigError(f"--gpu-memory {gpu_memory:g}: expected the memory of a GPU in GiB, for example 24")
    sections = {name: field.annotation for name, field in Experiment.model_fields.items()}
    with_resources = [
        name for name, kind in sections.items() if isinstance(kind, type) and "resources" in getattr(kind, "model_fields", {})
    ]
    given = {key: value for key, value in (("gpus", gpus), ("gpu_memory_gib", gpu_memory)) if value is not None}
    return [f"{name}.resources.{key}={value:g}" for name in with_resources for key, value in given.items()]


def description_path(path: str | Path) -> Path:
    """The path itself if it hides presets, else the preset of this name if there is one."""
    given, preset = Path(path), preset_path(str(path))
    return given if preset is None or hides_presets(given) else preset


def hides_presets(path: Path) -> bool:
    """Whether this path exists, and is meant rather than a preset of its name. A folder is not, because it may be the store of
    the preset's run, unless it has a description."""
    # Unlike `Path.exists`, `os.path.exists` is false for text that cannot be a path, for example because it is too long.
    return os.path.exists(path) and not (os.path.isdir(path) and not os.path.exists(path / "experiment.yaml"))


def read_tree(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file, and no preset of this name: {', '.join(preset_names())}") from None
    except IsADirectoryError:
        inside = path / "experiment.yaml"
        raise ConfigError(
            f"{path}: is a folder: {f'did you mean {inside}?' if os.path.exists(inside) else 'name a YAML file'}"
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"{path}: cannot be read: {reason}: name a YAML file that this user may read") from None
    if len(data) > MOST_BYTES:
        raise ConfigError(
            f"{path}: larger than {MOST_BYTES >> 10} KiB, so not a description of an experiment: name another file"
        )
    try:
        tree = strict_yaml.parse(data.decode())
    except ValueError as error:
        raise ConfigError(f"{path}: cannot be read as YAML: {error}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected a mapping with keys such as name, data, model; found {type(tree).__name__}")
    return tree


def apply_overrides(tree: dict[str, Any], overrides: list[str]) -> None:
    """Set keys of a description before it is checked; each override is `section.key=value`. Raises ConfigError."""
    for key, value in names_first(map(_parsed, overrides)):
        try:
            set_key(tree, key, value)
        except ValueError as error:
            raise ConfigError(f"--set {key}: {error}") from None


def _parsed(override: str) -> tuple[Key, Any]:
    key, sign, value = override.partition("=")
    if not sign or not all(key.split(".")):
        raise ConfigError(f"--set {override}: expected section.key=value, for example --set 'distill.pairs=[20, 50]'")
    try:
        parsed = strict_yaml.parse(value)
    except ValueError as error:
        raise ConfigError(f"--set {short(override)}: {short(value)} is not a YAML value ({short(str(error))})") from None
    if comment := strict_yaml.comment_at_end(value):
        raise ConfigError(
            f"--set {short(override)}: {short(comment)} is a comment in YAML: write '{key}=\"...\"', or remove it"
        )
    return key, parsed
