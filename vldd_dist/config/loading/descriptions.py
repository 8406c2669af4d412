"""Reading a description, of an experiment or of a study. Every variant of a study is checked as a whole."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError

from vldd_dist.config.base import AnyPlugin
from vldd_dist.config.experiment import Experiment
from vldd_dist.config.loading.load import apply_overrides, description_path, experiment_of, hides_presets, read_tree
from vldd_dist.config.loading.presets import preset_path
from vldd_dist.config.loading.problems import first_problem
from vldd_dist.config.overrides import names_first, set_key
from vldd_dist.config.study import Study, TableSettings
from vldd_dist.errors import ConfigError
from vldd_dist.method_names import DISTILLED, FULL

logger = logging.getLogger(__name__)

# Keys that only a study has.
STUDY_KEYS = {"base", "set", "vary", "variants", "tables"}


@dataclass(frozen=True)
class LoadedStudy:
    """A study and its experiments.

    Attributes:
        experiments: variant -> its experiment, named STUDY-VARIANT.
        base: the file that `base` names by a relative path; None for a preset, an absolute path, or a description in its place.
    """

    study: Study
    experiments: Mapping[str, Experiment]
    base: Path | None = None

    @property
    def name(self) -> str:
        return self.study.name

    def with_experiments(self, experiments: Mapping[str, Experiment]) -> Self:
        """See `Described`."""
        return replace(self, experiments=experiments)

    def resolved(self) -> dict[str, Any]:
        return {variant: experiment.resolved() for variant, experiment in self.experiments.items()}

    def tree(self) -> dict[str, Any]:
        # The base already contains the changes of `set` and of the command line.
        return self.study.model_dump(mode="json") | {"set": {}}


def load_description(path: str | Path, overrides: list[str] | None = None) -> Experiment | LoadedStudy:
    """The experiment or the study that a file describes. Overrides of a study change the description that it varies.

    Raises:
        ConfigError: one sentence that names the file and the key, and how to correct it where that is known.
    """
    path = description_path(path)
    # Read once, because it may be a pipe.
    tree = read_tree(path)
    return (_study_of if STUDY_KEYS & tree.keys() else experiment_of)(tree, path, overrides or [])


def _study_of(tree: dict[str, Any], path: Path, overrides: list[str]) -> LoadedStudy:
    base = _read_base(tree, path)
    try:
        _change_base(tree)
        apply_overrides(tree["base"], overrides)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    loaded = replace(_checked_study(tree, path), base=base)
    _report_overridden(loaded.study, overrides, path)
    return loaded


def read_description(tree: dict[str, Any], source: str) -> Experiment | LoadedStudy:
    """The experiment or study from which `Described.tree` made the tree.

    Args:
        source: where the tree was read, for the error.

    Raises:
        ConfigError: this version cannot read the description; the sentence names the source.
    """
    return _checked_study(tree, source) if STUDY_KEYS & tree.keys() else experiment_of(tree, source, [])


def _checked_study(tree: dict[str, Any], path: Path | str) -> LoadedStudy:
    try:
        study = Study.model_validate(tree)
        trees = list(study.trees())
    except ValidationError as error:
        raise ConfigError(f"{path}: {first_problem(error)}") from None
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    experiments = _experiments(trees, study.vary, path)
    if problem := next(_table_problems(study, experiments), None):
        raise ConfigError(f"{path}: tables.{problem}")
    return LoadedStudy(study, experiments)


def _report_overridden(study: Study, overrides: list[str], path: Path) -> None:
    """Log a warning for the overrides without an effect on some variants, because they set the key, or a section with it.

    Raises:
        ConfigError: it has no effect on any variant.
    """
    changes, keys_of = study.changes(), dict[tuple[str, ...], list[str]]()
    for key in dict.fromkeys(override.partition("=")[0] for override in overrides):
        own = tuple(
            variant for variant, changed in changes.items() if any(f"{key}.".startswith(f"{each}.") for each in changed)
        )
        # `--gpus` sets the resources of every section, of which variants may set some.
        if not own or ".resources." in key:
            continue
        if len(own) == len(changes):
            raise ConfigError(f"--set {key}: has no effect, because every variant sets it: change it in {path}")
        keys_of.setdefault(own, []).append(key)
    for own, keys in keys_of.items():
        logger.warning("--set %s: has no effect on the variants that set it: %s", _some(keys), _some(own))


def _some(names: Sequence[str]) -> str:
    """The first three names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _read_base(tree: dict[str, Any], path: Path) -> Path | None:
    """Replace the name or path in `base` by the description it refers to. Returns `LoadedStudy.base`."""
    base = tree.get("base")
    if isinstance(base, dict):
        return None
    if not isinstance(base, str):
        raise ConfigError(f"{path}: base: expected a description, a preset's name or the path of a file")
    # The path is relative to the study's file, as a reader of the file expects, or to the current directory.
    beside = path.parent / base
    found = beside if base and hides_presets(beside) else description_path(base)
    tree["base"] = read_tree(found)
    return None if Path(base).is_absolute() or found == preset_path(base) else found


def _table_problems(study: Study, experiments: Mapping[str, Experiment]) -> Iterator[str]:
    """A sentence for each table entry that none of the table's variants will produce, so that its cells would stay empty, and for
    each table with the same rows for two variants."""
    for name, table in study.table_settings().items():
        shown = [experiments[variant] for variant in table.variants or experiments]
        methods = {FULL, DISTILLED, *(method.label for experiment in shown for method in experiment.coresets.methods)}
        if unknown := [method for method in table.methods if method not in methods]:
            yield f"{name}.methods: no variant of the table has {unknown[0]}: choose from {', '.join(sorted(methods))}"
        pairs = {number for experiment in shown for number in experiment.distill.pairs}
        for key, numbers in (("pairs", table.pairs or []), ("budgets", table.budgets)):
            if missing := [number for number in numbers if number not in pairs]:
                choices = ", ".join(map(str, sorted(pairs)))
                yield f"{name}.{key}: no variant of the table has {missing[0]} pairs: choose from {choices}"
        if table.image_models == "all" and not any(experiment.evaluation.image_models for experiment in shown):
            yield f"{name}.image_models: no variant of the table has evaluation.image_models: set it to own"
        variant_of: dict[tuple[str, tuple[str, ...]], str] = {}
        for variant in table.variants or experiments:
            first = variant_of.setdefault(_rows_of(experiments[variant], table), variant)
            if first != variant:
                yield (
                    f"{name}.methods: {first} and {variant} have the same distilled sets, and the table has no coreset that differs "
                    "between them: list such coresets in methods, or remove one of the variants from the table"
                )


def _rows_of(experiment: Experiment, table: TableSettings) -> tuple[str, tuple[str, ...]]:
    """What determines a variant's rows: its description without name and coresets, and those of its coresets that the table has."""
    shown = [method.label for method in experiment.coresets.methods if method.label in table.methods]
    return experiment.model_dump_json(exclude={"name", "coresets"}), tuple(shown)


def _change_base(tree: dict[str, Any]) -> None:
    """Apply the changes of `set`, before those of the command line, which override them. Raises ValueError."""
    changes = tree.get("set")
    if not isinstance(changes, dict):
        return
    for key, value in names_first((str(key), value) for key, value in changes.items()):
        try:
            set_key(tree["base"], key, value)
        except ValueError as error:
            raise ValueError(f"set.{key}: {error}") from None


def _experiments(
    trees: list[tuple[str, dict[str, Any]]], axes: Mapping[str, Mapping[str, Any]], path: Path | str
) -> dict[str, Experiment]:
    experiments: dict[str, Experiment] = {}
    variant_of: dict[str, str] = {}
    source_of: dict[str, AnyPlugin] = {}
    for name, tree in trees:
        try:
            experiments[name] = _with_shared_source(Experiment.model_validate(tree), source_of)
        except ValidationError as error:
            _refuse_scalar_axis(error, axes, path)
            raise ConfigError(f"{path}: variant {name}: {first_problem(error)}") from None
        unnamed = experiments[name].model_copy(update={"name": ""}).model_dump_json()
        first = variant_of.setdefault(unnamed, name)
        if first != name:
            raise ConfigError(f"{path}: the variants {first} and {name} are the same experiment: remove one of them")
    return experiments


def _with_shared_source(experiment: Experiment, source_of: dict[str, AnyPlugin]) -> Experiment:
    """The same experiment with the source of the first one whose source has the same settings. A source keeps what it has read
    of its files, so they are read once for a study.

    Args:
        source_of: settings as JSON -> the first source with them; a new one is added.
    """
    source = source_of.setdefault(experiment.data.source.model_dump_json(), experiment.data.source)
    return experiment.model_copy(update={"data": experiment.data.model_copy(update={"source": source})})


def _refuse_scalar_axis(error: ValidationError, axes: Mapping[str, Mapping[str, Any]], path: Path | str) -> None:
    """Raises ConfigError if a variant is wrong because the values of an axis, such as `distill.pairs: [10, 20]`, are no lists."""
    first = error.errors()[0]
    key = ".".join(map(str, first["loc"]))
    # The label of an axis `{LABEL: {KEY: VALUE}}` may change other keys.
    values = [changes[key] for changes in axes.get(key, {}).values() if changes.keys() == {key}]
    if first["type"] == "list_type" and first["input"] in values and len(values) == len(axes[key]):
        shown = ", ".join(str(value if isinstance(value, list) else [value]) for value in values)
        raise ConfigError(f"{path}: vary: a value of {key} is itself a list: write [{shown}]") from None
