"""Reading a study: its file, the description that it varies, and every variant checked as a whole."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vldd_dist.config.experiment import Experiment
from vldd_dist.config.loading.load import apply_overrides, description_path, exists, first_problem, load_experiment, read_tree
from vldd_dist.config.overrides import set_key
from vldd_dist.config.study import Study
from vldd_dist.errors import ConfigError
from vldd_dist.recall_metrics import DISTILLED, FULL

# Keys that only a study has.
STUDY_KEYS = {"base", "set", "vary", "variants", "tables"}


@dataclass(frozen=True)
class LoadedStudy:
    """A study with the experiments that it stands for.

    Attributes:
        experiments: variant -> its experiment, named STUDY-VARIANT.
    """

    study: Study
    experiments: Mapping[str, Experiment]

    @property
    def name(self) -> str:
        return self.study.name

    def model_dump(self, mode: str) -> dict[str, Any]:
        """Variant -> its whole description, as of an experiment."""
        return {variant: experiment.model_dump(mode=mode) for variant, experiment in self.experiments.items()}


def load_description(path: str | Path, overrides: list[str] | None = None) -> Experiment | LoadedStudy:
    """The experiment or the study that a file describes. Overrides of a study change the description that it varies.

    Raises:
        ConfigError: one sentence naming the file and the key, and the mend where it is known.
    """
    tree = read_tree(description_path(path))
    return load_study(path, overrides) if STUDY_KEYS & tree.keys() else load_experiment(path, overrides)


def load_study(path: str | Path, overrides: list[str] | None = None) -> LoadedStudy:
    """Read and check a study; see `load_description`."""
    path = description_path(path)
    tree = read_tree(path)
    if not STUDY_KEYS & tree.keys():
        raise ConfigError(f"{path}: describes one experiment, not a study (`base` with `vary` or `variants`): use `vldd run`")
    _read_base(tree, path)
    try:
        _change_base(tree)
        apply_overrides(tree["base"], overrides or [])
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    return _checked_study(tree, path)


def description_tree(described: Experiment | LoadedStudy) -> dict[str, Any]:
    """Everything that it was loaded from, in one tree, which `read_description` reads."""
    if isinstance(described, Experiment):
        return described.model_dump(mode="json")
    # The base has the changes of `set` and of the command line.
    return described.study.model_dump(mode="json") | {"set": {}}


def read_description(tree: dict[str, Any], source: str) -> Experiment | LoadedStudy:
    """What `description_tree` made.

    Raises:
        ConfigError: this version reads no such description; the sentence names the source.
    """
    if STUDY_KEYS & tree.keys():
        return _checked_study(tree, source)
    try:
        return Experiment.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(f"{source}: {first_problem(error)}") from None


def _checked_study(tree: dict[str, Any], path: Path | str) -> LoadedStudy:
    try:
        study = Study.model_validate(tree)
        trees = list(study.trees())
    except ValidationError as error:
        raise ConfigError(f"{path}: {first_problem(error)}") from None
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    experiments = _experiments(trees, path)
    for problem in _table_problems(study, experiments):
        raise ConfigError(f"{path}: tables.{problem}")
    return LoadedStudy(study, experiments)


def _read_base(tree: dict[str, Any], path: Path) -> None:
    """Replace the name of a description by what it says."""
    base = tree.get("base")
    if isinstance(base, str):
        # Beside the study, as a reader of the file expects, or from where the command runs.
        beside = path.parent / base
        tree["base"] = read_tree(beside if base and exists(beside) else description_path(base))
    elif not isinstance(base, dict):
        raise ConfigError(f"{path}: base: expected a description, a preset's name or the path of a file")


def _table_problems(study: Study, experiments: Mapping[str, Experiment]) -> Iterator[str]:
    """What a table asks for that none of its variants will have, so that its place would stay empty."""
    for name, table in study.tables.items():
        own = [experiments[variant] for variant in table.variants or experiments]
        methods = {FULL, DISTILLED, *(method.label for one in own for method in one.coresets.methods)}
        if unknown := [method for method in table.methods if method not in methods]:
            yield f"{name}.methods: no variant of the table has {unknown[0]}: {', '.join(sorted(methods))}"
        pairs = {number for one in own for number in one.distill.pairs}
        if missing := [number for number in table.pairs or [] if number not in pairs]:
            yield f"{name}.pairs: no variant of the table has {missing[0]} pairs: {', '.join(map(str, sorted(pairs)))}"
        if table.image_models == "all" and not any(one.evaluation.image_models for one in own):
            yield f"{name}.image_models: all: no variant of the table has evaluation.image_models"


def _change_base(tree: dict[str, Any]) -> None:
    """Make the changes of `set`; before those of the command line, which are more particular. Raises ValueError."""
    changes = tree.get("set")
    for key, value in changes.items() if isinstance(changes, dict) else ():
        try:
            set_key(tree["base"], str(key), value)
        except ValueError as error:
            raise ValueError(f"set.{key}: {error}") from None


def _experiments(trees: list[tuple[str, dict[str, Any]]], path: Path | str) -> dict[str, Experiment]:
    experiments: dict[str, Experiment] = {}
    variant_of: dict[str, str] = {}
    for name, tree in trees:
        try:
            experiments[name] = Experiment.model_validate(tree)
        except ValidationError as error:
            raise ConfigError(f"{path}: variant {name}: {first_problem(error)}") from None
        same = variant_of.setdefault(experiments[name].model_copy(update={"name": ""}).model_dump_json(), name)
        if same != name:
            raise ConfigError(f"{path}: the variants {same} and {name} are the same experiment: leave one of them out")
    return experiments
